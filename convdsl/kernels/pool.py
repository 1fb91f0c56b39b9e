"""Pooling over windows of a map, and its gradients in gather form: no atomics.

A program works on ROWS pixels of what it stores and COLS channels of each. Windows are KH x KW at
stride SH x SW; PT and PL are the padding above and to the left. The padding below and to the
right only shows in OH and OW, except where a mean counts it (PB, PR). Pixels of a tensor are C
elements apart, or what its STRIDE says. A map's elements are below 2**31, and so are rows of more
than one channel: of one there may be more, where it stands for channels that are pooled over.
"""

import triton
import triton.language as tl


@triton.jit
def epilogue_column(offsets, c, C: tl.constexpr):
    """An only channel may stand for channels that are pooled over as an axis."""
    return offsets if C == 1 else c


@triton.jit(do_not_specialize=["seed"])
def max_pool(
    x_ptr,
    y_ptr,
    index_ptr,
    rows,
    x_aux,
    aux,
    seed,
    X_PROLOGUE: tl.constexpr,
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
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(max over i, j of x[n, p*SH-PT+i, q*SW-PL+j, c]).

    x is (n, H, W, C), y and index are (n, OH, OW, C) with rows = n*OH*OW. index is the winner's
    place i*KW + j in its window: the first of equals, the last of NaNs, as in torch. It is not
    stored when ``index_ptr`` is None. Every window must cover at least one pixel. x stands for
    X_PROLOGUE(x) if that is not None (see `convdsl.kernels.rows_product`), worked out for every
    window that sees it, and rounded before it is compared: winners are those of a tensor in memory.
    """
    program = tl.program_id(0).to(tl.int64) if C == 1 else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (OH * OW)).to(tl.int64)
    top = (row // OW % OH * SH - PT).to(tl.int32)
    left = (row % OW * SW - PL).to(tl.int32)
    x_map = x_ptr + image * (H * W * X_STRIDE) + c
    best = tl.full((ROWS, COLS), float("-inf"), tl.float32)
    # until a larger value is seen, the window's first place inside the map wins
    index = tl.maximum(-top, 0) * KW + tl.maximum(-left, 0) + tl.zeros_like(c)
    # one loop: of two, compilers unroll both and run out of registers
    for tap in range(KH * KW):
        i = tap // KW
        j = tap % KW
        inside = (top + i >= 0) & (top + i < H) & (left + j >= 0) & (left + j < W)
        pixel = (top + i) * W + left + j
        x = tl.load(x_map + pixel * X_STRIDE, mask=mask & inside, other=float("-inf"))
        x = x.to(tl.float32)
        if X_PROLOGUE is not None:
            at = image * (H * W * C) + pixel * C + c
            x = X_PROLOGUE(x, at, epilogue_column(at, c, C), mask & inside, x_aux, seed)
            x = tl.where(inside, x.to(x_ptr.dtype.element_ty).to(tl.float32), float("-inf"))
        take = (x > best) | (x != x)
        best = tl.where(take, x, best)
        index = tl.where(take, tap, index)
    offsets = row.to(tl.int64) * C + c
    y = EPILOGUE(best, offsets, epilogue_column(offsets, c, C), mask, aux, seed)
    tl.store(y_ptr + row.to(tl.int64) * Y_STRIDE + c, y.to(y_ptr.dtype.element_ty), mask=mask)
    if index_ptr is not None:
        tl.store(index_ptr + offsets, index.to(index_ptr.dtype.element_ty), mask=mask)


@triton.jit
def unpooled(
    dy_map,
    index_map,
    h,
    w,
    mask,
    OH: tl.constexpr,
    OW: tl.constexpr,
    C: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    DY_STRIDE: tl.constexpr,
):
    """Sums of dy over the windows whose winners are pixels (h, w) of the padded map.

    dy_map and index_map point to each element's channel at the start of its image. A pixel asks
    only the ceil(KH/SH) * ceil(KW/SW) windows that may cover it, always in the same order.
    """
    total = tl.zeros(mask.shape, tl.float32)
    for u in range((KH + SH - 1) // SH):
        for v in range((KW + SW - 1) // SW):
            p = h // SH - u
            q = w // SW - v
            i = h - p * SH
            j = w - q * SW
            covers = (p >= 0) & (p < OH) & (i < KH) & (q >= 0) & (q < OW) & (j < KW)
            window = p * OW + q
            winner = tl.load(index_map + window * C, mask=mask & covers, other=-1)
            dy = tl.load(dy_map + window * DY_STRIDE, mask=mask & covers, other=0.0)
            total += tl.where(winner.to(tl.int32) == i * KW + j, dy.to(tl.float32), 0.0)
    return total


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
    DY_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum of dy over the windows whose winner is this pixel).

    dy and index are (n, OH, OW, C), dx is (n, H, W, C) with rows = n*H*W, or None where EPILOGUE
    has taken what is asked for.
    """
    program = tl.program_id(0).to(tl.int64) if C == 1 else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (H * W)).to(tl.int64)
    h = (row // W % H).to(tl.int32) + PT
    w = (row % W).to(tl.int32) + PL
    dy_map = dy_ptr + image * (OH * OW * DY_STRIDE) + c
    index_map = index_ptr + image * (OH * OW * C) + c
    total = unpooled(dy_map, index_map, h, w, mask, OH, OW, C, KH, KW, SH, SW, DY_STRIDE)
    offsets = row.to(tl.int64) * C + c
    dx = EPILOGUE(total, offsets, epilogue_column(offsets, c, C), mask, aux, seed)
    if dx_ptr is not None:
        tl.store(
            dx_ptr + row.to(tl.int64) * DX_STRIDE + c, dx.to(dx_ptr.dtype.element_ty), mask=mask
        )


@triton.jit
def window_extent(start, SIZE: tl.constexpr, K: tl.constexpr, P: tl.constexpr, COUNT: tl.constexpr):
    """Places of a window from ``start`` along one axis with end padding P, as COUNT says."""
    if COUNT == "map":
        extent = tl.minimum(start + K, SIZE) - tl.maximum(start, 0)
    else:
        # the part of a rounded-up last window beyond the padding is not counted
        extent = tl.minimum(start + K, SIZE + P) - start
    return extent


@triton.jit
def window_divisor(
    top,
    left,
    H: tl.constexpr,
    W: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    PB: tl.constexpr,
    PR: tl.constexpr,
    COUNT: tl.constexpr,
):
    """What the sum over the window at (top, left) is divided by.

    none: 1. full: KH*KW. map: its places within the map. padded: those within the padded map.
    share: those, as a share of KH*KW.
    """
    divisor = tl.full(top.shape, KH * KW if COUNT == "full" else 1, tl.float32)
    if COUNT != "none" and COUNT != "full":
        extent = window_extent(top, H, KH, PB, COUNT) * window_extent(left, W, KW, PR, COUNT)
        divisor = extent.to(tl.float32)
    if COUNT == "share":
        divisor = divisor / (KH * KW)
    return divisor


@triton.jit(do_not_specialize=["seed"])
def sum_pool(
    x_ptr,
    w_ptr,
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
    COUNT: tl.constexpr,
    NORM: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(sum over i, j of w[i,j] * x[n, p*SH-PT+i, q*SW-PL+j, c] / divisor).

    x is (n, H, W, C), y is (n, OH, OW, C) with rows = n*OH*OW, w is (KH, KW) or None for ones; the
    divisor is `window_divisor`. With NORM squares are summed and the root is taken.
    """
    program = tl.program_id(0).to(tl.int64) if C == 1 else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (OH * OW)).to(tl.int64)
    top = (row // OW % OH * SH - PT).to(tl.int32)
    left = (row % OW * SW - PL).to(tl.int32)
    x_map = x_ptr + image * (H * W * X_STRIDE) + c
    total = tl.zeros((ROWS, COLS), tl.float32)
    for tap in range(KH * KW):
        i = tap // KW
        j = tap % KW
        inside = (top + i >= 0) & (top + i < H) & (left + j >= 0) & (left + j < W)
        pixel = (top + i) * W + left + j
        x = tl.load(x_map + pixel * X_STRIDE, mask=mask & inside, other=0.0).to(tl.float32)
        if NORM:
            x = x * x
        if w_ptr is not None:
            x *= tl.load(w_ptr + tap).to(tl.float32)
        total += x
    total = total / window_divisor(top, left, H, W, KH, KW, PB, PR, COUNT)
    if NORM:
        total = tl.sqrt(total)
    offsets = row.to(tl.int64) * C + c
    y = EPILOGUE(total, offsets, epilogue_column(offsets, c, C), mask, aux, seed)
    tl.store(y_ptr + row.to(tl.int64) * Y_STRIDE + c, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def sum_pool_gradient(
    dy_ptr,
    w_ptr,
    x_ptr,
    y_ptr,
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
    COUNT: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum of w[i,j] * dy / divisor over the windows that cover this pixel).

    dy is (n, OH, OW, C), dx is (n, H, W, C) with rows = n*H*W; (i, j) is the pixel's place in the
    window. With x and y, the gradient of the norm: x * (sum of dy / y / divisor), where a window
    with y = 0 gives nothing.
    """
    program = tl.program_id(0).to(tl.int64) if C == 1 else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (H * W)).to(tl.int64)
    h = (row // W % H).to(tl.int32) + PT
    w = (row % W).to(tl.int32) + PL
    dy_map = dy_ptr + image * (OH * OW * DY_STRIDE) + c
    total = tl.zeros((ROWS, COLS), tl.float32)
    for u in range((KH + SH - 1) // SH):
        for v in range((KW + SW - 1) // SW):
            p = h // SH - u
            q = w // SW - v
            i = h - p * SH
            j = w - q * SW
            covers = (p >= 0) & (p < OH) & (i < KH) & (q >= 0) & (q < OW) & (j < KW)
            window = p * OW + q
            dy = tl.load(dy_map + window * DY_STRIDE, mask=mask & covers, other=0.0).to(tl.float32)
            if w_ptr is not None:
                dy *= tl.load(w_ptr + i * KW + j, mask=covers, other=0.0).to(tl.float32)
            if y_ptr is not None:
                y_map = y_ptr + image * (OH * OW * C) + c
                y = tl.load(y_map + window * C, mask=mask & covers, other=1.0).to(tl.float32)
                dy = tl.where(y == 0.0, 0.0, dy / tl.where(y == 0.0, 1.0, y))
            divisor = window_divisor(p * SH - PT, q * SW - PL, H, W, KH, KW, PB, PR, COUNT)
            # a window that does not cover the pixel may have no extent at all
            total += dy / tl.where(covers, divisor, 1.0)
    offsets = row.to(tl.int64) * C + c
    if x_ptr is not None:
        total *= tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    dx = EPILOGUE(total, offsets, epilogue_column(offsets, c, C), mask, aux, seed)
    tl.store(dx_ptr + row.to(tl.int64) * DX_STRIDE + c, dx.to(dx_ptr.dtype.element_ty), mask=mask)
