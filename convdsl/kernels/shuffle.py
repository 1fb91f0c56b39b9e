"""Channels in another order: the transpose of groups and channels within a group."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def shuffle(
    x_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r, j*GROUPS + g] = EPILOGUE(x[r, g*(C/GROUPS) + j]); x and y are (rows, C)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    source = c % GROUPS * (C // GROUPS) + c // GROUPS
    x = tl.load(x_ptr + row * C + source, mask=mask, other=0.0).to(tl.float32)
    offsets = row * C + c
    y = EPILOGUE(x, offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
