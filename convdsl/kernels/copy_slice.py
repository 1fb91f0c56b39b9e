"""Copy a range of channels from one tensor into a range of channels of another."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def copy_slice(
    x_ptr,
    y_ptr,
    rows,
    x_channels,
    x_start,
    y_channels,
    y_start,
    count,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r, y_start + c] = EPILOGUE(x[r, x_start + c]) for r < rows, c < count.

    x is (rows, x_channels), y is (rows, y_channels): maps with a row per pixel, or vectors.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < count)
    x = tl.load(x_ptr + row * x_channels + x_start + c, mask=mask, other=0.0).to(tl.float32)
    offsets = row * y_channels + y_start + c
    y = EPILOGUE(x, offsets, y_start + c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
