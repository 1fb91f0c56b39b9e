"""Local response normalisation: every channel is divided by what its neighbours do.

A program works on ROWS rows of C channels, COLS at a time. The window of SIZE channels, SIZE odd,
is centred and reads zeros beyond the channels. Only x is kept for the gradient.
"""

import triton
import triton.language as tl


@triton.jit
def neighbourhood(
    pixel_ptr,
    c,
    inside,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """log2(s[r,c]), s = K + ALPHA * sum over |j| <= SIZE // 2 of x[r, c+j]^2.

    x[r, c] lies at pixel_ptr[r] + c; only where ``inside`` says there is such a pixel.
    """
    total = tl.zeros((ROWS, COLS), tl.float32)
    for j in range(SIZE):
        place = c + j - SIZE // 2
        mask = inside & (place >= 0) & (place < C)
        x = tl.load(pixel_ptr + place, mask=mask, other=0.0).to(tl.float32)
        total += x * x
    return tl.log2(K + ALPHA * total)


@triton.jit(do_not_specialize=["seed"])
def lrn(
    x_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r,c] = EPILOGUE(x[r,c] * s[r,c]^-BETA), s as in `neighbourhood`. x and y are (rows, C)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    offsets = row * C + c
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = neighbourhood(x_ptr + row * C, c, row < rows, C, SIZE, ALPHA, K, ROWS, COLS)
    y = EPILOGUE(x * tl.exp2(-BETA * scale), offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def lrn_gradient(
    dy_ptr,
    x_ptr,
    dx_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[r,c] = EPILOGUE(dy * s^-BETA - 2 ALPHA BETA x * sum over j of (dy * x * s^-(BETA+1))).

    The factors are those of [r,c], in the sum of [r, c+j] with |j| <= SIZE // 2. dy, x and dx are
    (rows, C).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for j in range(SIZE):
        place = c + j - SIZE // 2
        inside = (row < rows) & (place >= 0) & (place < C)
        dy = tl.load(dy_ptr + row * C + place, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row * C + place, mask=inside, other=0.0).to(tl.float32)
        scale = neighbourhood(x_ptr + row * C, place, row < rows, C, SIZE, ALPHA, K, ROWS, COLS)
        total += dy * x * tl.exp2(-(BETA + 1.0) * scale)
    mask = (row < rows) & (c < C)
    offsets = row * C + c
    dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    scale = neighbourhood(x_ptr + row * C, c, row < rows, C, SIZE, ALPHA, K, ROWS, COLS)
    dx = dy * tl.exp2(-BETA * scale) - 2.0 * ALPHA * BETA * x * total
    dx = EPILOGUE(dx, offsets, c, mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
