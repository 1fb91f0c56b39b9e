"""The sizes of one convolution, and what follows: constants of the loop nests, torch text.

Serves maps and sequences: the loop nests see a sequence of length L as a map of 1 x L. Shared by
the layers and their gradients; decides nothing about tiles or launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument
from convdsl.ir.op import ShapeError, Window
from convdsl.ir.types import TensorType
from convdsl.ops._touched import partly, seeing, seen
from convdsl.ops._window import Padding, as_map, output_sizes, over_a_map, window_over


@dataclass(frozen=True, slots=True)
class Geometry:
    """Maps (or sequences) without batch, weight (K, C/groups, *F), padding in numbers."""

    x: TensorType
    y: TensorType
    weight: tuple[int, ...]
    window: Window
    groups: int

    @property
    def pixels(self) -> int:
        """Pixels of the output of one image."""
        return self.y.pixels

    @property
    def group_filters(self) -> int:
        return self.weight[0] // self.groups

    @property
    def group_channels(self) -> int:
        return self.weight[1]

    @property
    def taps(self) -> int:
        return prod(self.weight[2:])

    @property
    def is_product(self) -> bool:
        """One tap meets every pixel by itself: rows of channels times a matrix."""
        steps = (*self.window.stride, *self.weight[2:])
        return self.groups == 1 and set(steps) == {1} and self.x.spatial == self.y.spatial

    @property
    def is_stem(self) -> bool:
        """The first convolution of coloured images: taps of a row lie side by side."""
        side_by_side = self.window.dilation[-1] == 1 and self.taps > 1
        return self.groups == 1 and self.x.channels == 3 and side_by_side

    @property
    def channels_last(self) -> tuple[int, ...]:
        """The weight's axes in the order the matrix-product nests store them: (K, *F, C)."""
        return (0, *range(2, len(self.weight)), 1)

    @property
    def constants(self) -> dict[str, Argument]:
        """The compile-time constants that all loop nests of a convolution have."""
        x, y, window = as_map(self.x), as_map(self.y), over_a_map(self.window)
        return {
            "H": x.height,
            "W": x.width,
            "C": x.channels,
            "K": y.channels,
            "P": y.height,
            "Q": y.width,
            "R": window.kernel[0],
            "S": window.kernel[1],
            "STRIDE_H": window.stride[0],
            "STRIDE_W": window.stride[1],
            "PAD_H": window.padding[0][0],
            "PAD_W": window.padding[1][0],
            "DILATION_H": window.dilation[0],
            "DILATION_W": window.dilation[1],
            "GROUPS": self.groups,
            "PRECISION": "ieee",
        }

    def touched_of_x(self, x: Value, outputs: Sequence[int] | None = None) -> dict[Value, str]:
        """`Launch.touched` of the input, of which strides may leave places out.

        outputs: how many outputs there are along each axis, where they are not all wanted.
        """
        places = seen(self.x.spatial, outputs or self.y.spatial, self.window)
        return partly(x, places * self.x.channels)

    def touched_of_y(self, y: Value) -> dict[Value, str]:
        """`Launch.touched` of the output's gradient: windows in the padding alone are left out."""
        windows = seeing(self.x.spatial, self.y.spatial, self.window)
        return partly(y, windows * self.y.channels)


def convolution(
    x: TensorType,
    filters: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pad: Padding,
    dilation: tuple[int, ...],
    groups: int,
) -> Geometry:
    """The convolution of ``x``. Raises ShapeError E212, E213, E214 or E222."""
    window = window_over(x, kernel, stride, pad, dilation)
    check_groups(groups, x.channels, filters)
    y = x.with_shape(filters, *output_sizes(x, window))
    return Geometry(x, y, (filters, x.channels // groups, *kernel), window, groups)


def refuse_axes(x: TensorType, axes: int, other: str) -> None:
    """Raises ShapeError E214 that points to the ``other`` layer if x is a sequence for a map.

    Or a map for a sequence; what is no volume at all is left to `window_over`.
    """
    if not x.is_vector and len(x.spatial) != axes:
        kind = "a map" if axes == 2 else "a sequence"
        raise ShapeError("E214", "needs {kind}, got {x}", help=other, kind=kind, x=x)


def check_groups(groups: int, channels: int, filters: int) -> None:
    """Raises ShapeError E213 unless ``groups`` divides both."""
    for count, what in ((channels, "input channels"), (filters, "filters")):
        if count % groups:
            raise ShapeError(
                "E213",
                "groups={groups} does not divide the {count} {what}",
                help="choose groups that divide both the input channels and K",
                argument="groups",
                groups=groups,
                count=count,
                what=what,
            )


def torch_padding(window: Window) -> tuple[int, ...] | None:
    """Padding torch's own convolution can do, equal at both ends of every axis; else None."""
    starts, ends = zip(*window.padding, strict=True)
    return starts if starts == ends else None


def torch_padded(x: str, window: Window) -> str:
    """Torch expression of ``x`` with the padding that torch's convolution cannot do."""
    return x if torch_padding(window) else f"F.pad({x}, {pad_order(window.padding)})"


def pad_order(padding: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Padding as ``F.pad`` takes it: the last axis first."""
    return tuple(side for axis in reversed(padding) for side in axis)


def torch_options(window: Window, groups: int | str) -> str:
    """Keyword arguments for a torch convolution, only those that differ from the defaults."""
    axes = len(window.kernel)
    options = {
        "stride": (window.stride, (1,) * axes),
        "padding": (torch_padding(window) or (0,) * axes, (0,) * axes),
        "dilation": (window.dilation, (1,) * axes),
        "groups": (groups, 1),
    }
    return "".join(f", {name}={v}" for name, (v, default) in options.items() if v != default)
