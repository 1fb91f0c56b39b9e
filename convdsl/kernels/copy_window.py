"""Copy a window of a map: cropping, constant padding, and either one's gradient."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def copy_window(
    x_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    VALUE: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(x[n, p+TOP, q+LEFT, c]), with VALUE for x outside its map.

    x is (n, H, W, C), y is (n, OH, OW, C) with rows = n*OH*OW; TOP and LEFT may be negative. Pixels
    of x and y are X_STRIDE and Y_STRIDE apart.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    h = (row // OW % OH).to(tl.int32) + TOP
    w = (row % OW).to(tl.int32) + LEFT
    inside = (h >= 0) & (h < H) & (w >= 0) & (w < W)
    place = ((row // (OH * OW) * H + h) * W + w) * X_STRIDE + c
    x = tl.load(x_ptr + place, mask=mask & inside, other=0.0).to(tl.float32)
    offsets = row * C + c
    y = EPILOGUE(tl.where(inside, x, VALUE), offsets, c, mask, aux, seed)
    tl.store(y_ptr + row * Y_STRIDE + c, y.to(y_ptr.dtype.element_ty), mask=mask)
