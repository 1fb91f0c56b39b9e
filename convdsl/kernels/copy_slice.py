"""Copy a range of channels from one tensor into a range of channels of another."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def copy_slice(
    x_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    X_CHANNELS: tl.constexpr,
    X_START: tl.constexpr,
    Y_CHANNELS: tl.constexpr,
    Y_START: tl.constexpr,
    COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r, Y_START + c] = EPILOGUE(x[r, X_START + c]) for r < rows, c < COUNT.

    x is (rows, X_CHANNELS), y is (rows, Y_CHANNELS): maps with a row per pixel, or vectors.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < COUNT)
    x = tl.load(x_ptr + row * X_CHANNELS + X_START + c, mask=mask, other=0.0).to(tl.float32)
    offsets = row * Y_CHANNELS + Y_START + c
    y = EPILOGUE(x, offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
