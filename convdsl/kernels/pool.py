"""Pooling over windows of a map, and its gradients in gather form: no atomics.

A program works on ROWS pixels of what it stores and COLS channels of each. Windows are KH x KW at
stride SH x SW; PT and PL are the padding above and to the left. The padding below and to the
right only shows in OH and OW, except where the average counts it (PB, PR).
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def max_pool(
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
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(max over i, j of x[n, p*SH-PT+i, q*SW-PL+j, c]).

    x is (n, H, W, C), y and index are (n, OH, OW, C) with rows = n*OH*OW. index is the winner's
    place i*KW + j in its window: the first of equals, the last of NaNs, as in torch. It is not
    stored when ``index_ptr`` is None. Every window must cover at least one pixel.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (OH * OW)
    top = (row // OW % OH * SH - PT).to(tl.int32)
    left = (row % OW * SW - PL).to(tl.int32)
    corner = ((image * H + top) * W + left) * C + c
    best = tl.full((ROWS, COLS), float("-inf"), tl.float32)
    # until a larger value is seen, the window's first place inside the map wins
    index = tl.maximum(-top, 0) * KW + tl.maximum(-left, 0) + tl.zeros_like(c)
    for i in range(KH):
        for j in range(KW):
            inside = (top + i >= 0) & (top + i < H) & (left + j >= 0) & (left + j < W)
            place = corner + (i * W + j) * C
            x = tl.load(x_ptr + place, mask=mask & inside, other=float("-inf")).to(tl.float32)
            take = (x > best) | (x != x)
            best = tl.where(take, x, best)
            index = tl.where(take, i * KW + j, index)
    offsets = row * C + c
    y = EPILOGUE(best, offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
    if index_ptr is not None:
        tl.store(index_ptr + offsets, index.to(index_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def max_pool_gradient(
    dy_ptr,
    index_ptr,
    dx_ptr,
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
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum of dy over the windows whose winner is this pixel).

    dy and index are (n, OH, OW, C), dx is (n, H, W, C) with rows = n*H*W. A pixel asks only the
    ceil(KH/SH) * ceil(KW/SW) windows that may cover it, always in the same order.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (H * W)
    h = (row // W % H).to(tl.int32) + PT
    w = (row % W).to(tl.int32) + PL
    total = tl.zeros((ROWS, COLS), tl.float32)
    for u in range((KH + SH - 1) // SH):
        for v in range((KW + SW - 1) // SW):
            p = h // SH - u
            q = w // SW - v
            i = h - p * SH
            j = w - q * SW
            covers = (p >= 0) & (p < OH) & (i < KH) & (q >= 0) & (q < OW) & (j < KW)
            place = ((image * OH + p) * OW + q) * C + c
            winner = tl.load(index_ptr + place, mask=mask & covers, other=-1)
            dy = tl.load(dy_ptr + place, mask=mask & covers, other=0.0).to(tl.float32)
            total += tl.where(winner.to(tl.int32) == i * KW + j, dy, 0.0)
    offsets = row * C + c
    dx = EPILOGUE(total, offsets, mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def window_extent(
    start, SIZE: tl.constexpr, K: tl.constexpr, P: tl.constexpr, COUNT_PAD: tl.constexpr
):
    """Places a window from ``start`` divides by, along one axis with end padding P."""
    if COUNT_PAD:
        # the part of a rounded-up last window beyond the padding is not counted
        extent = tl.minimum(start + K, SIZE + P) - start
    else:
        extent = tl.minimum(start + K, SIZE) - tl.maximum(start, 0)
    return extent


@triton.jit(do_not_specialize=["seed"])
def average_pool(
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
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PT: tl.constexpr,
    PL: tl.constexpr,
    PB: tl.constexpr,
    PR: tl.constexpr,
    COUNT_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(sum over i, j of x[n, p*SH-PT+i, q*SW-PL+j, c] / extent(p, q)).

    x is (n, H, W, C), y is (n, OH, OW, C) with rows = n*OH*OW. The extent is that of the window
    within the padded map (COUNT_PAD) or within the map.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (OH * OW)
    top = (row // OW % OH * SH - PT).to(tl.int32)
    left = (row % OW * SW - PL).to(tl.int32)
    corner = ((image * H + top) * W + left) * C + c
    total = tl.zeros((ROWS, COLS), tl.float32)
    for i in range(KH):
        for j in range(KW):
            inside = (top + i >= 0) & (top + i < H) & (left + j >= 0) & (left + j < W)
            place = corner + (i * W + j) * C
            total += tl.load(x_ptr + place, mask=mask & inside, other=0.0).to(tl.float32)
    extent = window_extent(top, H, KH, PB, COUNT_PAD) * window_extent(left, W, KW, PR, COUNT_PAD)
    offsets = row * C + c
    y = EPILOGUE(total / extent.to(tl.float32), offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def average_pool_gradient(
    dy_ptr,
    dx_ptr,
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
    PB: tl.constexpr,
    PR: tl.constexpr,
    COUNT_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum of dy / extent over the windows that cover this pixel).

    dy is (n, OH, OW, C), dx is (n, H, W, C) with rows = n*H*W.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (H * W)
    h = (row // W % H).to(tl.int32) + PT
    w = (row % W).to(tl.int32) + PL
    total = tl.zeros((ROWS, COLS), tl.float32)
    for u in range((KH + SH - 1) // SH):
        for v in range((KW + SW - 1) // SW):
            p = h // SH - u
            q = w // SW - v
            top = p * SH - PT
            left = q * SW - PL
            covers = (p >= 0) & (p < OH) & (h - p * SH < KH)
            covers &= (q >= 0) & (q < OW) & (w - q * SW < KW)
            place = ((image * OH + p) * OW + q) * C + c
            dy = tl.load(dy_ptr + place, mask=mask & covers, other=0.0).to(tl.float32)
            extent = window_extent(top, H, KH, PB, COUNT_PAD)
            extent *= window_extent(left, W, KW, PR, COUNT_PAD)
            # a window that does not cover the pixel may have no extent at all
            total += dy / tl.where(covers, extent, 1).to(tl.float32)
    offsets = row * C + c
    dx = EPILOGUE(total, offsets, mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
