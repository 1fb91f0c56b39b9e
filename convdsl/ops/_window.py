"""Sliding-window arithmetic shared by convolution and pooling: padding words and output sizes.

Turns what the user wrote (kernel, stride, padding, dilation) into a `Window` with explicit
(start, end) padding per axis, and a `Window` into output sizes, on the two axes of a map or the
one of a sequence. Assumes positive sizes; does not judge what a particular layer allows beyond
that the window fits.
"""

from dataclasses import replace

from convdsl.ir import arguments
from convdsl.ir.arguments import Pair
from convdsl.ir.op import ShapeError, Window
from convdsl.ir.types import TensorType

#: a word (same, half, valid, full) or (start, end) per axis: ((top, bottom), (left, right))
Padding = str | tuple[Pair, ...]

_KINDS = {1: "a sequence of length x channels", 2: "a map of height x width x channels"}


#: converter and ``doc`` of the argument ``pad`` of layers that convolve maps, and sequences
map_padding = arguments.padding("same", "half", "valid", "full")
AROUND_MAP = (
    "zeros around the map: a number, HxW, ((top, bottom), (left, right)); half = (F-1)/2, same = "
    "output of ceil(W/S), valid = 0, full = F-1"
)
sequence_padding = arguments.padding("same", "half", "valid", "full", axes=1)
AROUND_SEQUENCE = (
    "zeros around the sequence: a number, (start, end); half = (F-1)/2, same = output of "
    "ceil(L/S), valid = 0, full = F-1"
)


def extent(kernel: int, dilation: int = 1) -> int:
    """Places of the input a window spans along one axis: D(F - 1) + 1."""
    return dilation * (kernel - 1) + 1


def output_size(
    size: int, kernel: int, stride: int, padding: Pair, dilation: int = 1, ceil: bool = False
) -> int:
    """W2 = floor((W1 - F + P_start + P_end) / S) + 1 with F dilated.

    With ``ceil`` the division rounds up, but a last window that would start beyond the input and
    its start padding is left out, as in torch. Raises ShapeError E212 if the window does not fit.
    """
    span = size + padding[0] + padding[1]
    if extent(kernel, dilation) > span:
        raise ShapeError(
            "E212",
            "a window of {window} does not fit into {span} = {size} + {start} + {end}",
            help="use a smaller window or pad more, for example P=same",
            argument="kernel",
            window=extent(kernel, dilation),
            span=span,
            size=size,
            start=padding[0],
            end=padding[1],
        )
    room = span - extent(kernel, dilation)
    if not ceil:
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding[0] else count


def axis_padding(word: str, size: int, kernel: int, stride: int, dilation: int = 1) -> Pair:
    """(start, end) of a padding word along one axis, with I the size and F the dilated kernel.

    same: p = max(0, S*ceil(I/S) - I + F - S), floor(p/2) at the start and the rest at the end.
    half: (F - 1)/2 on both sides; ShapeError E222 if that is not whole. valid: 0. full: F - 1.
    """
    window = extent(kernel, dilation)
    if word == "valid":
        return (0, 0)
    if word == "full":
        return (window - 1, window - 1)
    if word == "same":
        total = max(0, stride * -(-size // stride) - size + window - stride)
        return (total // 2, total - total // 2)
    if word != "half":
        raise ValueError(f"no padding is called {word!r}")
    if window % 2 == 0:
        raise ShapeError(
            "E222",
            "P=half is (F-1)/2 = {half}, which is not whole",
            help="use an odd F, P=same or explicit padding",
            argument="kernel",
            half=(window - 1) / 2,
        )
    return (window // 2, window // 2)


def expect_axes(x: TensorType, axes: int) -> None:
    """Raises ShapeError E214 unless ``x`` has that many spatial axes: 2 a map, 1 a sequence."""
    if len(x.spatial) == axes:
        return
    help = f"write the input as {'C@L' if axes == 1 else 'HxWxC'}"
    if x.is_vector:
        help = "put the layer before FC, FLATTEN or GAP"
    raise ShapeError("E214", "needs {kind}, got {x}", help=help, kind=_KINDS[axes], x=x)


def window_over(
    x: TensorType,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: Padding,
    dilation: tuple[int, ...] | None = None,
    ceil: bool = False,
) -> Window:
    """The window over ``x`` with its padding resolved to numbers; as many axes as ``kernel`` has.

    Raises ShapeError E214 if ``x`` has other axes, E222 if the padding word is not defined here.
    """
    expect_axes(x, len(kernel))
    steps = dilation or (1,) * len(kernel)
    sides = (
        tuple(
            axis_padding(padding, *axis)
            for axis in zip(x.spatial, kernel, stride, steps, strict=True)
        )
        if isinstance(padding, str)
        else padding
    )
    return Window(kernel, stride, sides, steps, ceil)


def output_sizes(x: TensorType, window: Window) -> tuple[int, ...]:
    """Spatial sizes of the output of ``window`` over ``x``. Raises ShapeError E212."""
    return tuple(
        output_size(*axis, ceil=window.ceil)
        for axis in zip(
            x.spatial, window.kernel, window.stride, window.padding, window.dilation, strict=True
        )
    )


def as_map(x: TensorType) -> TensorType:
    """The map of one row that a sequence (C, L) is in memory; a map is itself."""
    return x if x.is_map else x.with_shape(x.channels, 1, *x.spatial)


def over_a_map(window: Window) -> Window:
    """The window over `as_map` of its input: one axis becomes two, the first of a single row."""
    if len(window.kernel) == 2:
        return window
    return replace(
        window,
        kernel=(1, *window.kernel),
        stride=(1, *window.stride),
        padding=((0, 0), *window.padding),
        dilation=(1, *window.dilation),
    )
