"""What the pooling layers share: arguments, their window's rules, torch padding text, launches.

Torch pads pooling equally on both sides by at most half the window; this module refuses more
(E222) and writes unequal padding as an explicit ``F.pad``. Sequences are pooled along their one
axis, maps along both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from convdsl.ir.arguments import (
    Pair,
    choice,
    field,
    one_or,
    optional,
    padding,
    pair,
    shared_arguments,
)
from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument, Band, Launch, Nest, Schedule, Size
from convdsl.ir.op import ShapeError, Window
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of, spread, two_for_one
from convdsl.ops._rows import stride_of, tile
from convdsl.ops._tiles import SHORTEST_BAND
from convdsl.ops._touched import partly, seeing, seen
from convdsl.ops._window import Padding, as_map, output_sizes, over_a_map, window_over


@shared_arguments
class Pooling(Spatial):
    """Base of the layers that make one number of each window of a channel."""

    kernel: int | Pair = field(
        2, convert=one_or(pair(1)), letter="F", doc="extent of the window, F or HxW"
    )
    stride: int | Pair | None = field(
        None,
        convert=optional(one_or(pair(1))),
        letter="S",
        doc="step of the window; the window itself",
    )
    pad: int | Padding = field(
        0,
        convert=one_or(padding("same", "half", "valid")),
        letter="P",
        doc="zeros around the map, at most F/2",
    )
    round: str = field(
        "floor",
        convert=choice("floor", "ceil"),
        doc="what a size that is not whole becomes; ceil lets the last window hang over the edge",
    )

    has_epilogue = True

    def sizes(self, axes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(kernel, stride) in force, a number per axis. Raises ShapeError E204."""
        kernel = spread(self.kernel, axes, "kernel", "F")
        return kernel, kernel if self.stride is None else spread(self.stride, axes, "stride", "S")

    def sides(self, axes: int) -> Padding:
        """The padding: a word, or (start, end) per axis. Raises ShapeError E204."""
        if isinstance(self.pad, int):
            return ((self.pad, self.pad),) * axes
        if axes == 1 and not isinstance(self.pad, str):
            raise two_for_one("pad", "P", "write one number, such as P=1")
        return self.pad

    def window(self, *inputs: TensorType) -> Window:
        """The window in numbers. Raises ShapeError E204, E214, E222."""
        (x,) = inputs
        axes = axes_of(x)
        kernel, stride = self.sizes(axes)
        window = window_over(x, kernel, stride, self.sides(axes), ceil=self.round == "ceil")
        for size, (start, end) in zip(kernel, window.padding, strict=True):
            if max(start, end) > size // 2:
                raise ShapeError(
                    "E222",
                    "pads {pad}, more than half of F = {size}: a window could see nothing else",
                    help="pad at most {most}",
                    argument="pad",
                    pad=max(start, end),
                    size=size,
                    most=size // 2,
                )
            if start != end and window.ceil and self.pad != "same":
                raise ShapeError(
                    "E222",
                    "round=ceil is not defined for unequal padding ({start} and {end})",
                    help="pad both sides alike, or write round=floor",
                    argument="pad",
                    start=start,
                    end=end,
                )
        return window

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        return x.with_shape(x.channels, *output_sizes(x, self.window(x)))

    @property
    def rounds_up(self) -> bool:
        """A last window may hang over the edge; P=same leaves nothing to round."""
        return self.round == "ceil" and self.pad != "same"

    @property
    def torch(self) -> "TorchPooling":
        """How torch is told, on an input of ``axes`` axes."""
        kernel, stride = self.sizes(self.axes)
        around, start = torch_padding(kernel, stride, self.sides(self.axes))
        return TorchPooling(kernel, stride, around, start, self.rounds_up)


@dataclass(frozen=True, slots=True)
class TorchPooling:
    """The window for torch's functions: ``F.pad`` around the input, or pooling's own ``padding``.

    before: format string with ``{x}``, ``{value}``. start: padding torch pools with, per axis.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: str
    start: tuple[int, ...]
    ceil: bool

    @property
    def is_padded_before(self) -> bool:
        return self.before != "{x}"

    def padded(self, x: str, value: str = "0") -> str:
        """``x`` with the padding that torch's pooling cannot do."""
        return self.before.format(x=x, value=value)

    def arguments(self) -> str:
        """Window, stride and padding as torch's pooling functions take them."""
        return ", ".join(
            str(sizes[0]) if len(sizes) == 1 else str(sizes)
            for sizes in (self.kernel, self.stride, self.start)
        )


def torch_padding(
    kernel: tuple[int, ...], stride: tuple[int, ...], pad: Padding
) -> tuple[str, tuple[int, ...]]:
    """(``F.pad`` text, padding torch pools with) for ``pad`` over an input of any size."""
    none = (0,) * len(kernel)
    if pad == "half":
        return "{x}", tuple(size // 2 for size in kernel)
    if pad == "valid":
        return "{x}", none
    if not isinstance(pad, str) and all(start == end for start, end in pad):
        return "{x}", tuple(start for start, _ in pad)
    if isinstance(pad, str):  # same
        totals = [
            str(size - 1) if step == 1 else f"max(0, -{{x}}.shape[{axis}] % {step} + {size - step})"
            for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), 2)
        ]
        sides = [(f"{total} // 2", f"({total} + 1) // 2") for total in totals]
    else:
        sides = [(str(start), str(end)) for start, end in pad]
    # torch wants the last axis first
    text = ", ".join(side for axis in reversed(sides) for side in axis)
    return f"F.pad({{x}}, ({text}), value={{value}})", none


def pooling_launch(
    nest: Nest,
    tensors: Mapping[str, Argument],
    large: TensorType,
    small: TensorType,
    window: Window,
    **constants: Argument,
) -> Schedule:
    """One launch of a nest that takes what those of ``kernels/pool.py`` take.

    large, small: the map or sequence the windows slide over and the one with one place per window;
    a gradient stores the large one. constants: what this nest takes beyond the others.
    """
    large, small, window = as_map(large), as_map(small), over_a_map(window)
    gradient = "gradient" in nest.function
    stored = large if gradient else small
    # a thread goes through large windows, as global pooling has them, for one number at a time
    elements = 128 if not gradient and prod(window.kernel) > 128 else 1024
    if large.channels <= 4:
        # each number is an instruction of its own; more of them spill registers on sm_90
        elements = min(elements, 512)
    # reductions may begin in a gradient's epilogue, whose blocks are high enough
    shape = (2 * elements, 64) if gradient else (elements,)
    rows, columns = tile(large.channels, *shape)
    count = f"n * {stored.pixels}"
    ends = ("dy", "dx") if gradient else ("x", "y")
    strides = {
        f"{end.upper()}_STRIDE": stride_of(tensors[f"{end}_ptr"], large.channels) for end in ends
    }
    arguments: dict[str, Argument] = {
        **tensors,
        "rows": Size(count),
        "H": large.height,
        "W": large.width,
        "C": large.channels,
        "OH": small.height,
        "OW": small.width,
        "KH": window.kernel[0],
        "KW": window.kernel[1],
        "SH": window.stride[0],
        "SW": window.stride[1],
        "PT": window.padding[0][0],
        "PL": window.padding[1][0],
        **constants,
        **strides,
        "ROWS": rows,
        "COLS": columns,
    }
    grid = (f"triton.cdiv({count}, {rows})", str(-(-large.channels // columns)))
    sizes = large.spatial, small.spatial, window
    places = seeing(*sizes) if gradient else seen(*sizes)
    touched: dict[Value, str] = {}
    for name in ("dy_ptr", "index_ptr", "y_ptr") if gradient else ("x_ptr",):
        if isinstance(value := tensors.get(name), Value):
            touched |= partly(value, places * large.channels)
    dx, band = tensors.get("dx_ptr"), None
    # channels that are pooled over are an axis of a map of one
    if isinstance(dx, Value) and dx.type.channels == large.channels and rows >= SHORTEST_BAND:
        band = Band(rows, "tl.program_id(0)", stored.pixels)
    # what ptxas spills decides: the windows that see a pixel are gone through side by side
    windows = prod(-(-k // s) for k, s in zip(window.kernel, window.stride, strict=True))
    warps = (16 if windows > 4 else 8) if gradient else 4
    return Schedule((Launch(nest, arguments, grid, warps, band=band, touched=touched),))
