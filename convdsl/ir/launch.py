"""How a node becomes kernel launches: which loop nest, with which arguments, on which grid.

Nothing here imports triton: a loop nest is named by module and function, and a test resolves
every name to a real ``@triton.jit`` function with exactly these parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from convdsl.ir.graph import Value
from convdsl.ir.tile import Tile


@dataclass(frozen=True, slots=True)
class Nest:
    """The function ``convdsl.kernels.<module>.<function>``."""

    module: str
    function: str


@dataclass(frozen=True, slots=True)
class Size:
    """A run-time integer argument: a Python expression of the batch size ``n``."""

    text: str


@dataclass(frozen=True, slots=True)
class Stride:
    """How many elements further the next row of ``value`` lies: its channels, or more.

    A launch that has the stride of a tensor among its arguments finds it anywhere between the
    channels of a wider one (`convdsl.passes.place_slices`). constant: at compile time.
    """

    value: Value
    constant: bool = True


@dataclass(frozen=True, slots=True)
class Box:
    """``value`` as a tensor descriptor, of which a kernel loads one ``block`` at a time.

    shape: as which it is seen, sizes or expressions of the batch size; rows are the last axis, and
    lie as far apart as those of the value.
    """

    value: Value
    shape: tuple[int | str, ...]
    block: tuple[int, ...]


class _Triton:
    """The part of the name ``triton`` that sizes use."""

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        return -(-a // b)


def worked_out(expression: str, n: int) -> int:
    """What a size or a grid is for a batch of ``n``."""
    return int(eval(expression, {"n": n, "triton": _Triton}))


# A Value is passed as a pointer, a Box as a descriptor, a Size as a run-time integer, None as an
# absent pointer and everything else as a compile-time constant; a Stride becomes a Size or a
# constant.
Given = Value | Box | Size | bool | int | float | str | None
Argument = Given | Stride


@dataclass(frozen=True, slots=True)
class Band:
    """How a kernel cuts its result, rows of channels in memory, into bands of ``rows`` rows.

    index: Triton text of the number of the band that EPILOGUE gets. pixels: rows of one sample in
    each of ``phases`` sequences of bands, which the rows are dealt to; bands follow each other
    where there is one sequence.
    """

    rows: int
    index: str
    pixels: int
    phases: int = 1

    @property
    def count(self) -> str:
        """How many bands there are, an expression of the batch size ``n``."""
        return f"triton.cdiv(n * {self.pixels}, {self.rows}) * {self.phases}"

    @property
    def most(self) -> int:
        """As many bands a sample there are at most."""
        return -(-self.pixels // self.rows) * self.phases


@dataclass(frozen=True, slots=True)
class Product:
    """The matrix product that a launch is: rows x depth times depth x columns, ``count`` of them.

    Each an expression of the batch size ``n``. variants: names of other loop nests for it, which a
    `Tile` may ask for; they take boxes of tensor descriptors.
    """

    rows: str
    columns: str
    depth: str
    count: int = 1
    variants: tuple[str, ...] = ()

    def sizes(self, n: int) -> tuple[int, int, int]:
        """(rows, columns, depth) for a batch of ``n``."""
        return worked_out(self.rows, n), worked_out(self.columns, n), worked_out(self.depth, n)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch.

    arguments: by the nest's parameter names; ``aux``, ``seed`` and ``EPILOGUE`` are left out, and
        ``x_aux`` and ``X_PROLOGUE`` for an operand ``x_ptr``: code generation fills them when the
        nest has them.
    grid: up to three Python expressions of ``n``; ``triton.cdiv`` may be used.
    band: None when the tiles that EPILOGUE gets are no bands of rows, or short ones.
    touched: of tensors that are not read or written whole, how many elements are: expressions of
        ``n``, for `convdsl.codegen.traffic`.
    product: of a launch whose tile may be chosen (`Tail.tile`), BLOCK_M, BLOCK_N and BLOCK_K.
    group: channels at whose multiples tiles begin anew, where the result's channels are in groups.
    """

    nest: Nest
    arguments: Mapping[str, Argument]
    grid: tuple[str, ...]
    warps: int = 4
    stages: int = 2
    band: Band | None = None
    touched: Mapping[Value, str] = field(default_factory=dict)
    product: Product | None = None
    group: int = 0


@dataclass(frozen=True, slots=True)
class Tail:
    """What a fused group asks of its anchor beyond the epilogue's text.

    output: the value the anchor's kernel stores. pool: window of a max pooling done on the tile
    before the store, with ``index`` receiving the winner's place (None: nobody needs it). made:
    inputs that lie nowhere in memory, but are made by a PROLOGUE as the kernel loads them. alone:
    one program does all of the launch by itself, for a few samples. by_rows: of two nests that
    would do, the one that has the strides of its tensors. crowded: the epilogue holds two tiles
    more than the result's and begins reductions. laden: a PROLOGUE holds more than a normalisation
    or its gradient asks for. packs: the epilogue stores bits, eight channels to a byte. reduces: it
    begins reductions of the rows. by_columns: it stores no bits, and pools or reduces the rows of
    its tile or reads what they have in common. tile: of a matrix product, instead of the static
    choice.
    """

    output: Value
    pool: tuple[int, int] | None = None
    index: Value | None = None
    made: frozenset[Value] = frozenset()
    alone: bool = False
    by_rows: bool = False
    crowded: bool = False
    laden: bool = False
    packs: bool = False
    reduces: bool = False
    by_columns: bool = False
    tile: Tile | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The launches of one node in order, and the scratch values they share."""

    launches: tuple[Launch, ...]
    scratch: tuple[Value, ...] = field(default=())
