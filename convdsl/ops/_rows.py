"""Tensors as rows of channels, the way they lie in memory: blocks and launches over rows."""

from collections.abc import Mapping

from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument, Launch, Nest, Size, Stride
from convdsl.ir.types import TensorType
from convdsl.ops._tiles import power_of_two


def tile(channels: int, elements: int = 1024, most: int = 128) -> tuple[int, int]:
    """(ROWS, COLS) of a block of about ``elements``, at most ``most`` channels wide."""
    columns = min(power_of_two(channels), most)
    return max(1, elements // columns), columns


def stride_of(x: Argument, channels: int) -> Argument:
    """The stride of a tensor that a nest sees as rows of ``channels``.

    Fixed where the tensor's own rows are others, as when its channels are pooled over as an axis.
    """
    return Stride(x) if isinstance(x, Value) and x.type.channels == channels else channels


def row_tile(channels: int) -> tuple[int, int]:
    """(ROWS, COLS) of a block that is as wide as the rows, to reduce over them."""
    return tile(channels, elements=2048, most=4096)


def block_launch(
    nest: Nest,
    stored: TensorType,
    arguments: Mapping[str, Argument],
    block: tuple[int, int] | None = None,
) -> Launch:
    """A launch whose programs make a block each of the rows and channels of ``stored``.

    Adds the arguments ``rows``, ``ROWS`` and ``COLS``.
    """
    height, width = block or tile(stored.channels)
    count = f"n * {stored.pixels}"
    given = {**arguments, "rows": Size(count), "ROWS": height, "COLS": width}
    grid = (f"triton.cdiv({count}, {height})", str(-(-stored.channels // width)))
    return Launch(nest, given, grid)


def row_launch(nest: Nest, x: TensorType, arguments: Mapping[str, Argument]) -> Launch:
    """A launch whose programs go over the whole width of their rows of ``x``, to reduce them.

    16 elements a thread, and 8 of narrow rows, of which a thread has several; what ptxas spills
    decides. Adds the arguments ``rows``, ``C``, ``ROWS`` and ``COLS``.
    """
    height, width = row_tile(x.channels)
    warps = height * width // (512 if width >= 32 else 256)
    count = f"n * {x.pixels}"
    given = {**arguments, "rows": Size(count), "C": x.channels, "ROWS": height, "COLS": width}
    return Launch(nest, given, (f"triton.cdiv({count}, {height})",), warps)
