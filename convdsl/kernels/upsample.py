"""Bilinear upsampling of a map by whole factors, and its gradient in gather form: no atomics.

Row p of the output lies at the input's coordinate max(AH*p + BH, 0) / DH, column q at
max(AW*q + BW, 0) / DW: whole numbers, so that nothing is rounded before the weights are.
Coordinates lie within the map.
"""

import triton
import triton.language as tl


@triton.jit
def hat(place, i, SIZE: tl.constexpr, A: tl.constexpr, B: tl.constexpr, D: tl.constexpr):
    """Weight of the input's place i along one axis in the output's ``place``; 0 if it has none."""
    coordinate = tl.maximum(A * place + B, 0)
    first = coordinate // D
    share = (coordinate - first * D).to(tl.float32) / D
    second = tl.minimum(first + 1, SIZE - 1)
    return tl.where(i == first, 1.0 - share, 0.0) + tl.where(i == second, share, 0.0)


@triton.jit(do_not_specialize=["seed"])
def bilinear(
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
    AH: tl.constexpr,
    BH: tl.constexpr,
    DH: tl.constexpr,
    AW: tl.constexpr,
    BW: tl.constexpr,
    DW: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,c] = EPILOGUE(sum over the four neighbours h, w of hat(p, h) hat(q, w) x[n,h,w,c]).

    x is (n, H, W, C), y is (n, OH, OW, C) with rows = n*OH*OW.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (OH * OW)
    down = tl.maximum(AH * (row // OW % OH).to(tl.int32) + BH, 0)
    right = tl.maximum(AW * (row % OW).to(tl.int32) + BW, 0)
    h = down // DH
    w = right // DW
    h_share = (down - h * DH).to(tl.float32) / DH
    w_share = (right - w * DW).to(tl.float32) / DW
    h_next = tl.minimum(h + 1, H - 1)
    w_next = tl.minimum(w + 1, W - 1)
    upper = image * H + h
    lower = image * H + h_next
    a = tl.load(x_ptr + (upper * W + w) * C + c, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + (upper * W + w_next) * C + c, mask=mask, other=0.0).to(tl.float32)
    d = tl.load(x_ptr + (lower * W + w) * C + c, mask=mask, other=0.0).to(tl.float32)
    e = tl.load(x_ptr + (lower * W + w_next) * C + c, mask=mask, other=0.0).to(tl.float32)
    above = a * (1.0 - w_share) + b * w_share
    below = d * (1.0 - w_share) + e * w_share
    offsets = row * C + c
    y = EPILOGUE(above * (1.0 - h_share) + below * h_share, offsets, c, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def bilinear_gradient(
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
    AH: tl.constexpr,
    BH: tl.constexpr,
    DH: tl.constexpr,
    AW: tl.constexpr,
    BW: tl.constexpr,
    DW: tl.constexpr,
    REACH_H: tl.constexpr,
    REACH_W: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum over p, q of hat(p, h) hat(q, w) dy[n,p,q,c]).

    dy is (n, OH, OW, C), dx is (n, H, W, C) with rows = n*H*W. REACH_H rows and REACH_W columns
    of dy may have a weight, from the first whose coordinate is above h-1 or w-1.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = row // (H * W)
    h = (row // W % H).to(tl.int32)
    w = (row % W).to(tl.int32)
    top = tl.maximum((h - 1) * DH - BH, 0) // AH
    left = tl.maximum((w - 1) * DW - BW, 0) // AW
    total = tl.zeros((ROWS, COLS), tl.float32)
    for u in range(REACH_H):
        p = top + u
        down = hat(p, h, H, AH, BH, DH)
        for v in range(REACH_W):
            q = left + v
            weight = down * hat(q, w, W, AW, BW, DW)
            inside = mask & (p < OH) & (q < OW) & (weight > 0.0)
            place = ((image * OH + p) * OW + q) * C + c
            dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
            total += weight * dy
    offsets = row * C + c
    dx = EPILOGUE(total, offsets, c, mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
