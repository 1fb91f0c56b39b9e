"""Tensors as rows of channels, the way they lie in memory: block sizes for kernels over rows."""

from convdsl.ops._tiles import power_of_two


def tile(channels: int, elements: int = 1024, most: int = 128) -> tuple[int, int]:
    """(ROWS, COLS) of a block of about ``elements``, at most ``most`` channels wide."""
    columns = min(power_of_two(channels), most)
    return max(1, elements // columns), columns


def row_tile(channels: int) -> tuple[int, int, int]:
    """(ROWS, COLS, warps) for kernels that reduce over rows: 16 elements a thread."""
    rows, columns = tile(channels, elements=2048, most=4096)
    return rows, columns, rows * columns // 512
