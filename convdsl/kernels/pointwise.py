"""One pass over a tensor: everything pointwise, whatever the number of operands."""

import triton
import triton.language as tl


@triton.jit
def keep(acc, offsets, column, mask, aux, seed):
    """The empty epilogue."""
    return acc


@triton.jit(do_not_specialize=["seed"])
def pointwise(x_ptr, y_ptr, aux, seed, elements, EPILOGUE: tl.constexpr, BLOCK: tl.constexpr):
    """y[i] = EPILOGUE(x[i]) for i < elements; further operands come through ``aux``."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = EPILOGUE(x, offsets, offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def pointwise_rows(
    x_ptr,
    y_ptr,
    aux,
    seed,
    rows,
    channels,
    x_stride,
    y_stride,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r,c] = EPILOGUE(x[r,c]) for r < rows, c < channels: numbers per channel are read once.

    Rows of x and y are so many elements apart, those of other tensors ``channels``. y may be None
    where EPILOGUE has taken what is asked for.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < channels)
    offsets = row * channels + c
    x = tl.load(x_ptr + row * x_stride + c, mask=mask, other=0.0).to(tl.float32)
    y = EPILOGUE(x, offsets, c, mask, aux, seed)
    if y_ptr is not None:
        tl.store(y_ptr + row * y_stride + c, y.to(y_ptr.dtype.element_ty), mask=mask)
