"""Pooling to a given size: what the mean and the maximum share.

Turns a size of the output into windows over whatever input there is. Window i of O over n places is
[floor(i*n/O), ceil((i+1)*n/O)), as in torch: windows differ by at most one place, overlap where n/O
is not whole, and repeat places where O > n. Where all sizes divide, it is plain pooling with
F = S = n/O, and the layer is lowered to that.
"""

from collections.abc import Mapping
from math import gcd
from typing import Any, ClassVar

from convdsl.ir.arguments import Pair, field, one_or, pair, shared_arguments
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size
from convdsl.ir.op import Layer, Window
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of, spread
from convdsl.ops._rows import tile
from convdsl.ops._window import as_map
from convdsl.ops.identity import Identity


@shared_arguments
class AdaptivePooling(Spatial):
    """Base of the layers that pool to a size, whatever the size of their input."""

    size: int | Pair = field(
        convert=one_or(pair(1)), doc="size of the output whatever the input's, one number or HxW"
    )

    has_epilogue = True
    #: the layer that pools the same way with windows of a given extent, side by side
    plain: ClassVar[type[Any]]

    def sizes(self, x: TensorType) -> tuple[int, ...]:
        """Sizes of the output's axes. Raises ShapeError E204, E214."""
        return spread(self.size, axes_of(x), "size")

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        return x.with_shape(x.channels, *self.sizes(x))

    def parts(self, *inputs: TensorType) -> tuple[tuple[str, Layer], ...]:
        (x,) = inputs
        sizes = self.sizes(x)
        if x.spatial == sizes:
            return (("", Identity()),)
        if all(given % made == 0 for given, made in zip(x.spatial, sizes, strict=True)):
            kernel = tuple(given // made for given, made in zip(x.spatial, sizes, strict=True))
            return (("", self.plain(kernel if x.is_map else kernel[0], axes=len(kernel))),)
        return super().parts(x)

    def window(self, *inputs: TensorType) -> Window:
        """The largest extent and the largest step of its windows: bounds."""
        (x,) = inputs
        axes = list(zip(x.spatial, self.sizes(x), strict=True))
        kernel = tuple(largest_window(given, made) for given, made in axes)
        steps = tuple(-(-given // made) for given, made in axes)
        ones = (1,) * len(axes)
        return Window(kernel, steps, ((0, 0),) * len(axes), ones, uneven=True)

    @property
    def torch_size(self) -> str:
        """The size as torch's functions take it."""
        return str(self.size)


def largest_window(size: int, count: int) -> int:
    """Places of the largest of ``count`` windows over ``size`` places.

    Window i has ceil((r + size)/count) with r = i*size mod count, a multiple of their gcd.
    """
    return -(-(count - gcd(size, count) + size) // count)


def adaptive_launch(
    function: str,
    tensors: Mapping[str, Argument],
    given: TensorType,
    made: TensorType,
    **constants: Argument,
) -> Schedule:
    """One launch of a nest of ``kernels/adaptive_pool.py`` that reads ``given`` in windows."""
    given, made = as_map(given), as_map(made)
    height = largest_window(given.height, made.height)
    width = largest_window(given.width, made.width)
    # a thread goes through large windows for one number at a time: more would spill registers
    rows, columns = tile(made.channels, 128 if height * width > 32 else 1024)
    count = f"n * {made.pixels}"
    arguments: dict[str, Argument] = {
        **tensors,
        "rows": Size(count),
        "H": given.height,
        "W": given.width,
        "C": made.channels,
        "OH": made.height,
        "OW": made.width,
        "KH": height,
        "KW": width,
        **constants,
        "ROWS": rows,
        "COLS": columns,
    }
    grid = (f"triton.cdiv({count}, {rows})", str(-(-made.channels // columns)))
    return Schedule((Launch(Nest("adaptive_pool", function), arguments, grid),))
