"""Pooling to a given size, and its gradients in gather form: no atomics.

COUNT windows over SIZE places: window i is the places from floor(i*SIZE/COUNT) up to, but without,
ceil((i+1)*SIZE/COUNT). The windows that cover place h are then those of the same rule with SIZE and
COUNT exchanged, so that a gradient runs through windows of windows. H and W are sizes of what a
nest reads, OH and OW of what it stores, KH and KW the largest windows. A program works on ROWS
pixels of what it stores and COLS channels of each.
"""

import triton
import triton.language as tl


@triton.jit
def window_start(i, SIZE: tl.constexpr, COUNT: tl.constexpr):
    """First place of window i: floor(i*SIZE/COUNT)."""
    return i * SIZE // COUNT


@triton.jit
def window_end(i, SIZE: tl.constexpr, COUNT: tl.constexpr):
    """One behind the last place of window i: ceil((i+1)*SIZE/COUNT)."""
    return ((i + 1) * SIZE + COUNT - 1) // COUNT


@triton.jit(do_not_specialize=["seed"])
def adaptive_mean(
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
    BACK: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(mean of x[n,h,w,c] over the places (h, w) of window (p, q)).

    x is (n, H, W, C), y is (n, OH, OW, C) with rows = n*OH*OW. With BACK the gradient, x being dy
    and y dx: every (h, w) is a window that covers (p, q), and gives its share of dy.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    p = row // OW % OH
    q = row % OW
    top, left = window_start(p, H, OH), window_start(q, W, OW)
    height = (window_end(p, H, OH) - top).to(tl.int32)
    width = (window_end(q, W, OW) - left).to(tl.int32)
    corner = ((row // (OH * OW) * H + top) * W + left) * C + c
    total = tl.zeros((ROWS, COLS), tl.float32)
    for i in range(KH):
        for j in range(KW):
            inside = (i < height) & (j < width)
            place = corner + (i * W + j) * C
            x = tl.load(x_ptr + place, mask=mask & inside, other=0.0).to(tl.float32)
            if BACK:
                rows_of = window_end(top + i, OH, H) - window_start(top + i, OH, H)
                columns_of = window_end(left + j, OW, W) - window_start(left + j, OW, W)
                x = x / (rows_of * columns_of).to(tl.float32)
            total += x
    if not BACK:
        total = total / (height * width).to(tl.float32)
    offsets = row * C + c
    y = EPILOGUE(total, offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def adaptive_max(
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
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(max of x[n,h,w,c] over the places (h, w) of window (p, q)).

    x is (n, H, W, C), y and index are (n, OH, OW, C) with rows = n*OH*OW. index is the winner's
    place h*W + w: the first of equals, the last of NaNs, as in torch. It is not stored when
    ``index_ptr`` is None.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    p = row // OW % OH
    q = row % OW
    top, left = window_start(p, H, OH), window_start(q, W, OW)
    height = (window_end(p, H, OH) - top).to(tl.int32)
    width = (window_end(q, W, OW) - left).to(tl.int32)
    image = row // (OH * OW) * (H * W)
    first = (top * W + left).to(tl.int32)
    best = tl.full((ROWS, COLS), float("-inf"), tl.float32)
    # until a larger value is seen, the window's first place wins
    index = first + tl.zeros_like(c)
    for i in range(KH):
        for j in range(KW):
            inside = (i < height) & (j < width)
            place = first + (i * W + j)
            x_ptrs = x_ptr + (image + place) * C + c
            x = tl.load(x_ptrs, mask=mask & inside, other=float("-inf")).to(tl.float32)
            take = (x > best) | (x != x)
            best = tl.where(take, x, best)
            index = tl.where(take, place, index)
    offsets = row * C + c
    y = EPILOGUE(best, offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
    if index_ptr is not None:
        tl.store(index_ptr + offsets, index, mask=mask)


@triton.jit(do_not_specialize=["seed"])
def adaptive_max_gradient(
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
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,p,q,c] = EPILOGUE(sum of dy over the windows (h, w) whose winner is this pixel).

    dy and index are (n, H, W, C), dx is (n, OH, OW, C) with rows = n*OH*OW. A pixel asks only the
    windows that cover it, always in the same order.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    p = row // OW % OH
    q = row % OW
    top, left = window_start(p, H, OH), window_start(q, W, OW)
    height = (window_end(p, H, OH) - top).to(tl.int32)
    width = (window_end(q, W, OW) - left).to(tl.int32)
    corner = ((row // (OH * OW) * H + top) * W + left) * C + c
    own = (p * OW + q).to(tl.int32)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for i in range(KH):
        for j in range(KW):
            covers = mask & (i < height) & (j < width)
            place = corner + (i * W + j) * C
            winner = tl.load(index_ptr + place, mask=covers, other=-1)
            dy = tl.load(dy_ptr + place, mask=covers, other=0.0).to(tl.float32)
            total += tl.where(winner == own, dy, 0.0)
    offsets = row * C + c
    dx = EPILOGUE(total, offsets, c, mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
