"""The op contract: everything the compiler may ask of an operation, and the registry of layers.

An `Op` is what a node does. A `Layer` is an op with a name in the language: its dataclass fields
are the arguments users write, and all its rules stand side by side in one file of
`convdsl.ops`. A layer that lacks a rule fails at import.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, dataclass_transform

from convdsl.ir.arguments import ArgumentSpec, argument_specs, field
from convdsl.ir.graph import Bound, Node, Penalty, Role, Value
from convdsl.ir.head import Head
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.types import DType, TensorType

if TYPE_CHECKING:
    from convdsl.ir.builder import Builder


class ShapeError(Exception):
    """A layer does not fit its inputs. Lowering adds the place and makes a diagnostic of it.

    ``message`` and ``help`` are format strings; TensorType values among ``values`` are shown in
    the file's own notation. ``argument`` names the field to point at, None for the whole layer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        help: str | None = None,
        argument: str | None = None,
        **values: object,
    ) -> None:
        super().__init__(code, message)
        self.code, self.message, self.help = code, message, help
        self.argument, self.values = argument, values


@dataclass(frozen=True, slots=True)
class Window:
    """What a layer sees of its input along each spatial axis, for receptive fields and formulas.

    padding: (start, end) per axis. ``everything``: each output sees the whole input.
    ``transposed``: the window slides over the output with its stride there, and an output sees the
    inputs whose windows cover it, as in transposed convolution and upsampling. ``uneven``: windows
    differ, and kernel and stride are the largest extent and the largest step.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    ceil: bool = False
    everything: bool = False
    transposed: bool = False
    uneven: bool = False


@dataclass(frozen=True, slots=True)
class Initializer:
    """How a parameter starts: ``torch.nn.init.<function>(tensor, *arguments)``.

    The function ``values`` takes the numbers themselves, in C order, the same for every index of
    the leading axes they leave out.
    """

    function: str
    arguments: tuple[float, ...] = ()


ZEROS = Initializer("zeros_")
ONES = Initializer("ones_")


def glorot_uniform(fan_in: int, fan_out: int) -> Initializer:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    return Initializer("uniform_", (-bound, bound))


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A tensor a layer owns: shape in torch's order, start, storage order, what becomes of it.

    dtype: FLOAT32 for one that is never rounded to the computing type. penalty, bound: see
    `Parameter`.
    """

    shape: tuple[int, ...]
    initializer: Initializer
    permute: tuple[int, ...] | None = None
    role: Role = Role.LEARNED
    dtype: DType = DType.COMPUTE
    penalty: Penalty = (0.0, 0.0)
    bound: Bound | None = None


class Op(ABC):
    """What a node does. Immutable; ops with equal attributes are equal."""

    #: the last launch but for sums has an EPILOGUE hole: pointwise nodes may be fused behind it
    has_epilogue: ClassVar[bool] = False
    #: that kernel need not store its result, where reductions in its epilogue are all that reads it
    may_drop_result: ClassVar[bool] = False
    #: the kernel can also max-pool its tile (see `pool_window`)
    can_pool: ClassVar[bool] = False
    #: torch's backward pass does not read the output, a fresh tensor: it may be overwritten
    output_is_free: ClassVar[bool] = False
    #: max_pool(f(x)) and f(max_pool(x)) have the same values and gradients, to the bit
    may_follow_pool: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """A word for kernels' names and comments."""
        return type(self).__name__.lower()

    @property
    def updates(self) -> Mapping[int, int]:
        """Numbers of parameters of role STATE, and of the outputs that are their next values.

        A kernel gets the same memory for both.
        """
        return {}

    @property
    def helpers(self) -> tuple[Nest, ...]:
        """Functions of `kernels/` that `expression` calls."""
        return ()

    @abstractmethod
    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """Types of the outputs, given those of the inputs followed by the parameters."""

    @abstractmethod
    def reference(self, *operands: str) -> tuple[str, ...]:
        """A torch expression per output, in logical (N, C, H, W) order: the meaning.

        Operands are names of tensors; ``torch``, ``F`` (torch.nn.functional), ``seed`` and
        ``training`` may be used.
        """

    def torch_text(self, *operands: str) -> str | None:
        """How generated torch code works out the first output and updates the state in place.

        None: as `reference` says, which has no state to update.
        """
        return None

    def torch_in_place(self, x: str) -> str | None:
        """`torch_text` that overwrites its input, if torch has such a form."""
        return None

    def expression(self, *operands: str) -> str | None:
        """The Triton expression if every output element depends on the same input elements only.

        Operands are fp32 blocks; ``offsets`` (element numbers in storage order) and ``seed`` may
        be used. One at least has the output's type; each of the others has it too or is spread
        over it (see `ir.broadcast`). None: the op is no pointwise one.
        """
        return None

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        """The launches that compute ``node``, storing ``tail.output``."""
        raise NotImplementedError(f"{type(self).__name__} has no kernel of its own")

    def call(self, *operands: str) -> tuple[str, ...] | None:
        """A torch expression for every output, where no kernel of ours does it; else None.

        Operands and results lie in memory as kernels have them, channels last but for parameters'
        gradients; ``n`` is the batch.
        """
        return None

    def is_view(self, x: TensorType) -> bool:
        """True when the output is the input ``x`` under another type: no data moves."""
        return False

    def smallest_batch(self, *inputs: TensorType) -> int:
        """Samples a batch must have, in training, for the op to be defined."""
        return 1

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        """Places of the inputs that a kernel of its own can make as it loads them (`Tail.made`)."""
        return ()

    @property
    def pool_window(self) -> tuple[int, int] | None:
        """Window of a max pooling whose windows neither overlap nor leave the map, else None."""
        return None


class Layer(Op):
    """An op with a name in the language."""

    name: ClassVar[str]
    #: how many inputs: 1, or 0 for "two or more branches" (CONCAT, ADD)
    arity: ClassVar[int] = 1
    #: it works on vectors: lowering puts the flattening layer before it on anything else
    flattens: ClassVar[bool] = False
    #: a nonlinearity applied to each element, which raw scores must not have gone through
    is_activation: ClassVar[bool] = False
    #: it subtracts each channel's mean, so that a bias right before it has no effect
    cancels_bias: ClassVar[bool] = False
    #: what other systems call it, for "did you mean": without underscores, and 2D is no other name
    aliases: ClassVar[tuple[str, ...]] = ()
    #: programs for documentation and tests: ``("3@8x8", "CONV(4, F=3)")``
    examples: ClassVar[tuple[tuple[str, str], ...]] = ()
    #: names of the outputs behind the first, which are for the layer's own gradient and state
    extras: ClassVar[tuple[str, ...]] = ("index",)

    @abstractmethod
    def shape(self, *inputs: TensorType) -> TensorType:
        """Type of the output of one sample. Raises ShapeError."""

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        """Learned tensors by name, in state_dict order."""
        return {}

    def macs(self, *inputs: TensorType) -> int:
        """Multiply-accumulates for one sample."""
        return 0

    def window(self, *inputs: TensorType) -> Window | None:
        """What one output sees of the input; None: the same place only."""
        return None

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        """Its parameter and MAC counts with numbers: ``parameters = (5*5*1 + 1)*6 = 156``."""
        return ()

    @abstractmethod
    def gradient(self, node: Node, dy: Value, build: "Builder") -> dict[Value, Value]:
        """Adds the backward nodes; returns the gradient of each operand that has one."""

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.shape(*(o for o in operands if o.batched)),)

    def parts(self, *inputs: TensorType) -> tuple[tuple[str, "Layer"], ...]:
        """The chain of layers a composite layer stands for: (name in the path, layer).

        A layer with parts never reaches the graph; an empty name keeps the path. Raises ShapeError.
        """
        return ()

    @property
    def penalty(self) -> Penalty:
        """(l1, l2): the loss gets (l1 * sum of |y| + l2 * sum of y^2) / batch, of the output."""
        return (0.0, 0.0)

    def at_inference(self) -> Op | None:
        """The op of the same operands and first output that runs when nothing is learned.

        None: the layer itself.
        """
        return None

    def split(self, node: Node) -> tuple[Node, ...]:
        """The nodes of other ops that make the outputs of a ``node`` of the layer.

        Itself, or what it is made of: more than the layer's gradient sees of it.
        """
        return (node,)

    def distinct(self, number: int) -> "Layer":
        """The layer as the ``number``-th of its network: tells random generators apart."""
        return self

    def is_identity(self, training: bool) -> bool:
        """True when the node may be replaced by its input (in training, or only in inference)."""
        return False

    @classmethod
    def arguments(cls) -> tuple[ArgumentSpec, ...]:
        """What the language accepts between the parentheses, in positional order."""
        return argument_specs(cls)


LAYERS: dict[str, type[Layer]] = {}
HEADS: dict[str, type[Head]] = {}

C = TypeVar("C", bound=type[Any])


def _register(table: dict[str, Any], name: str) -> Callable[[C], C]:
    def decorate(cls: C) -> C:
        made = cast(C, dataclass(frozen=True)(cls))
        missing = sorted(getattr(made, "__abstractmethods__", ()))
        if missing:
            raise TypeError(f"{name} lacks: {', '.join(missing)}")
        if not made.__doc__ or name in table:
            raise TypeError(f"{name} needs a docstring and a name of its own")
        made.name = name
        table[name] = made
        return made

    return decorate


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def op(name: str) -> Callable[[C], C]:
    """Register a layer under its name in the language."""
    return _register(LAYERS, name)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def head(name: str) -> Callable[[C], C]:
    """Register a head under its name in the language."""
    return _register(HEADS, name)
