"""A batch of small matrices transposed: between channels-last maps and torch's C,H,W vectors."""

import triton
import triton.language as tl


@triton.jit
def transpose(
    x_ptr,
    y_ptr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """y[n,j,i] = x[n,i,j] for x (N,ROWS,COLUMNS), y (N,COLUMNS,ROWS), both contiguous."""
    TILES_M: tl.constexpr = (ROWS + BLOCK_M - 1) // BLOCK_M
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    row = pid // TILES_N % TILES_M * BLOCK_M + tl.arange(0, BLOCK_M)
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    image = (pid // (TILES_M * TILES_N)).to(tl.int64) * (ROWS * COLUMNS)
    mask = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
    tile = tl.load(x_ptr + image + row[:, None] * COLUMNS + column[None, :], mask=mask)
    tl.store(y_ptr + image + column[None, :] * ROWS + row[:, None], tile, mask=mask)
