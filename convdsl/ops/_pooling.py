"""What the pooling layers share: their window's rules, torch padding text and kernel constants.

Torch pads pooling equally on both sides by at most half the window; this module refuses more
(E222) and writes unequal padding as an explicit ``F.pad``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.arguments import Pair
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size
from convdsl.ir.op import ShapeError, Window
from convdsl.ir.types import TensorType
from convdsl.ops._rows import tile
from convdsl.ops._window import Padding, output_sizes, window_over


def pooling_window(
    x: TensorType, kernel: Pair, stride: Pair, pad: Padding, rounding: str
) -> Window:
    """The window over ``x`` in numbers. Raises ShapeError E214, E222."""
    window = window_over(x, kernel, stride, pad, ceil=rounding == "ceil")
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
        if start != end and window.ceil and pad != "same":
            raise ShapeError(
                "E222",
                "round=ceil is not defined for unequal padding ({start} and {end})",
                help="pad both sides alike, or write round=floor",
                argument="pad",
                start=start,
                end=end,
            )
    return window


def pooled(x: TensorType, window: Window) -> TensorType:
    """The map that pooling over ``window`` makes of ``x``. Raises ShapeError E212."""
    return x.with_shape(x.channels, *output_sizes(x, window))


@dataclass(frozen=True, slots=True)
class TorchPadding:
    """How torch is told: ``F.pad`` around the input (``before`` it), or pooling's own ``padding``.

    before: format string with ``{x}``, ``{value}``. start: padding torch pools with, per axis.
    """

    before: str
    start: Pair


def torch_padding(kernel: Pair, stride: Pair, pad: Padding) -> TorchPadding:
    """The torch text for ``pad`` over an input of any size."""
    if pad == "half":
        return TorchPadding("{x}", (kernel[0] // 2, kernel[1] // 2))
    if pad == "valid":
        return TorchPadding("{x}", (0, 0))
    if not isinstance(pad, str) and all(start == end for start, end in pad):
        return TorchPadding("{x}", (pad[0][0], pad[1][0]))
    if isinstance(pad, str):  # same
        totals = [
            str(size - 1) if step == 1 else f"max(0, -{{x}}.shape[{axis}] % {step} + {size - step})"
            for axis, size, step in zip((2, 3), kernel, stride, strict=True)
        ]
        sides = [f"{half} // 2" for total in totals for half in (total, f"({total} + 1)")]
    else:
        sides = [str(side) for axis in pad for side in axis]
    top, bottom, left, right = sides
    text = f"F.pad({{x}}, ({left}, {right}, {top}, {bottom}), value={{value}})"
    return TorchPadding(text, (0, 0))


def pooling_launch(
    function: str,
    tensors: Mapping[str, Argument],
    large: TensorType,
    small: TensorType,
    window: Window,
    **constants: Argument,
) -> Schedule:
    """One launch of a nest of ``kernels/pool.py``.

    large, small: the map the windows slide over and the map with one pixel per window; a gradient
    stores the large one. constants: what this nest takes beyond the others.
    """
    stored = large if function.endswith("gradient") else small
    rows, columns = tile(large.channels)
    count = f"n * {stored.pixels}"
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
        "ROWS": rows,
        "COLS": columns,
    }
    grid = (f"triton.cdiv({count}, {rows})", str(-(-large.channels // columns)))
    return Schedule((Launch(Nest("pool", function), arguments, grid),))


def mean_launch(
    function: str,
    tensors: Mapping[str, Argument],
    large: TensorType,
    small: TensorType,
    window: Window,
    count_pad: bool,
) -> Schedule:
    """`pooling_launch` of a mean, which divides by the extent its windows have."""
    (_, bottom), (_, right) = window.padding
    more = {"PB": bottom, "PR": right, "COUNT_PAD": count_pad}
    return pooling_launch(function, tensors, large, small, window, **more)
