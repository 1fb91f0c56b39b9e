"""Max pooling of a map that is normalised on the way, with the winner's place for the gradient."""

import triton
import triton.language as tl

from convdsl.kernels.lrn import neighbourhood
from convdsl.kernels.pool import epilogue_column


@triton.jit(do_not_specialize=["seed"])
def lrn_max_pool(
    x_ptr,
    y_ptr,
    index_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PT: tl.constexpr,
    PL: tl.constexpr,
    SIZE: tl.constexpr,
    ALPHA: tl.constexpr,
    BETA: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y, index = `pool.max_pool` of z[n,h,w,c] = x * s^-BETA, with s of `lrn.neighbourhood`.

    x is (n, H, W, C), y and index are (n, OH, OW, C) with rows = n*OH*OW; all is as in the two
    kernels. z lies nowhere: a pixel is normalised once for every window that sees it, and rounded
    before it is compared, so that winners are those of a pooling of its own.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (OH * OW)).to(tl.int64)
    top = row // OW % OH * SH - PT
    left = row % OW * SW - PL
    x_map = x_ptr + image * (H * W * X_STRIDE)
    best = tl.full((ROWS, COLS), float("-inf"), tl.float32)
    # until a larger value is seen, the window's first place inside the map wins
    index = tl.maximum(-top, 0) * KW + tl.maximum(-left, 0) + tl.zeros_like(c)
    for tap in range(KH * KW):
        i = tap // KW
        j = tap % KW
        inside = (top + i >= 0) & (top + i < H) & (left + j >= 0) & (left + j < W)
        pixel = x_map + ((top + i) * W + left + j) * X_STRIDE
        x = tl.load(pixel + c, mask=mask & inside, other=0.0).to(tl.float32)
        scale = neighbourhood(pixel, c, (row < rows) & inside, C, SIZE, ALPHA, K, ROWS, COLS)
        z = (x * tl.exp2(-BETA * scale)).to(x_ptr.dtype.element_ty).to(tl.float32)
        take = inside & ((z > best) | (z != z))
        best = tl.where(take, z, best)
        index = tl.where(take, tap, index)
    offsets = row.to(tl.int64) * C + c
    y = EPILOGUE(best, offsets, epilogue_column(offsets, c, C), mask, aux, seed)
    tl.store(y_ptr + row.to(tl.int64) * Y_STRIDE + c, y.to(y_ptr.dtype.element_ty), mask=mask)
    if index_ptr is not None:
        tl.store(index_ptr + offsets, index.to(index_ptr.dtype.element_ty), mask=mask)
