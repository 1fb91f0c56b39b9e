"""Copy a range of channels from one tensor into a range of channels of another."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def copy_slice(
    x_ptr,
    y_ptr,
    rows,
    channels,
    x_stride,
    x_start,
    y_stride,
    y_start,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r, y_start + c] = EPILOGUE(x[r, x_start + c]) for r < rows, c < channels.

    Rows of x and y, a row per pixel of maps or per vector, are so many elements apart; other
    tensors of the epilogue are (rows, channels).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < channels)
    x = tl.load(x_ptr + row * x_stride + x_start + c, mask=mask, other=0.0).to(tl.float32)
    y = EPILOGUE(x, row * channels + c, c, mask, aux, seed)
    tl.store(y_ptr + row * y_stride + y_start + c, y.to(y_ptr.dtype.element_ty), mask=mask)
