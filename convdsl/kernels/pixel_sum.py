"""Sum of a product of two maps over their pixels: the gradient of what scales whole channels."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def pixel_sum(
    a_ptr,
    b_ptr,
    y_ptr,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    PIXELS: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,c] = EPILOGUE(sum over p < PIXELS of a[n,p,c] * b[n,p,c]).

    a and b are (N, PIXELS, C), y is (N, C). A program adds up COLS channels of one image, ROWS
    pixels at a time and in order.
    """
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, PIXELS, ROWS):
        pixel = start + tl.arange(0, ROWS)
        places = image * (PIXELS * C) + pixel[:, None] * C + c[None, :]
        inside = (pixel < PIXELS)[:, None] & (c < C)[None, :]
        a = tl.load(a_ptr + places, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + places, mask=inside, other=0.0).to(tl.float32)
        total += a * b
    offsets = image * C + c
    mask = c < C
    y = EPILOGUE(tl.sum(total, axis=0), offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
