"""Convolution forward as an implicit matrix product, with bias, epilogue and 2x2 max pooling."""

import triton
import triton.language as tl

from convdsl.kernels.product import add_product


@triton.jit(do_not_specialize=["seed"])
def conv_forward(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    index_ptr,
    aux,
    seed,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    GROUPS: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    POOL_H: tl.constexpr,
    POOL_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    EXCHANGED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[n,p,q,k] = EPILOGUE(bias[k] + sum over r,s,c of x[n, p*STRIDE_H - PAD_H + r*DILATION_H,
    q*STRIDE_W - PAD_W + s*DILATION_W, c] * w[k,r,s,c]), with x zero outside its map.

    x (N,H,W,C), w (K,R,S,C/GROUPS), bias (K) or None, y (N,P,Q,K); pixels of x and y are X_STRIDE
    and Y_STRIDE elements apart, those of other tensors K. A program makes BLOCK_M pixels
    by BLOCK_N channels of one group. ``rows`` counts the pixels computed and must be < 2**31.

    With POOL_H x POOL_W of 1x2, 2x1 or 2x2, y is (N, P//POOL_H, Q//POOL_W, K), the maximum of each
    window after the epilogue; index (same shape, int8, or None) is the winner's place in its
    window, row by row. The first of equals wins and NaN wins over numbers, as in torch. Rows are
    then ordered so that a window's pixels follow each other; ``rows`` leaves out the pixels that
    no window covers. BLOCK_K is for 16-bit elements; 32-bit ones take half, at least 16.
    """
    KG: tl.constexpr = K // GROUPS
    CG: tl.constexpr = C // GROUPS
    TILES_N: tl.constexpr = (KG + BLOCK_N - 1) // BLOCK_N
    TAPS: tl.constexpr = POOL_H * POOL_W
    HALVE: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 32 and BLOCK_K > 16
    STEP: tl.constexpr = BLOCK_K // 2 if HALVE else BLOCK_K
    # the windows of the last pixels end inside the map: no load leaves it
    INSIDE: tl.constexpr = (
        PAD_H == 0
        and PAD_W == 0
        and (P - 1) * STRIDE_H + (R - 1) * DILATION_H < H
        and (Q - 1) * STRIDE_W + (S - 1) * DILATION_W < W
    )
    # a single tap that meets the pixels one by one: row i of x makes row i of y
    ONE_TAP: tl.constexpr = INSIDE and R == 1 and S == 1 and TAPS == 1
    EACH_PIXEL: tl.constexpr = ONE_TAP and P == H and Q == W and STRIDE_H == 1 and STRIDE_W == 1

    # column tiles are neighbours, so that they find the same pixels in the cache
    pid = tl.program_id(0)
    tile = pid // (TILES_N * GROUPS)
    group = pid // TILES_N % GROUPS
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = row < rows
    column_mask = column < KG

    WINDOWS_Q: tl.constexpr = Q // POOL_W
    WINDOWS: tl.constexpr = P // POOL_H * WINDOWS_Q
    window = row // TAPS
    image = (window // WINDOWS).to(tl.int64)
    p = window % WINDOWS // WINDOWS_Q * POOL_H + row % TAPS // POOL_W
    q = window % WINDOWS_Q * POOL_W + row % POOL_W
    if EACH_PIXEL:
        h_start = tl.zeros_like(row)
        w_start = h_start
        x_corner = x_ptr + tile.to(tl.int64) * (BLOCK_M * X_STRIDE) + group * CG
        x_rows = x_corner + tl.arange(0, BLOCK_M) * X_STRIDE
    else:
        h_start = p * STRIDE_H - PAD_H
        w_start = q * STRIDE_W - PAD_W
        x_rows = x_ptr + image * (H * W * X_STRIDE) + group * CG

    lanes = tl.arange(0, STEP)
    w_columns = w_ptr + (group * KG + column) * (R * S * CG)
    acc = tl.zeros((BLOCK_N, BLOCK_M) if EXCHANGED else (BLOCK_M, BLOCK_N), tl.float32)
    for step in range((R * S * CG + STEP - 1) // STEP):
        # w is contiguous in k = (r*S + s)*CG + c
        k = step * STEP + lanes
        k_mask = k < R * S * CG
        if CG % STEP == 0:  # the block lies in one tap
            tap = step // (CG // STEP)
            c = step % (CG // STEP) * STEP + lanes
            h = (h_start + tap // S * DILATION_H)[:, None]
            w = (w_start + tap % S * DILATION_W)[:, None]
        else:
            c = k % CG
            h = h_start[:, None] + (k // (S * CG) * DILATION_H)[None, :]
            w = w_start[:, None] + (k // CG % S * DILATION_W)[None, :]
        x_mask = row_mask[:, None]
        if not INSIDE:
            x_mask = x_mask & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        if (R * S * CG) % STEP != 0:
            x_mask = x_mask & k_mask[None, :]
        a = tl.load(x_rows[:, None] + ((h * W + w) * X_STRIDE + c[None, :]), mask=x_mask, other=0.0)
        b = tl.load(
            w_columns[None, :] + k[:, None],
            mask=k_mask[:, None] & column_mask[None, :],
            other=0.0,
        )
        acc = add_product(acc, a, b, EXCHANGED, PRECISION)

    if EXCHANGED:
        acc = tl.trans(acc)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + group * KG + column, mask=column_mask, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    if TAPS == 1:  # the rows are the pixels in order: nothing of p and q is kept through the loop
        # a large tile with much beside it does not fit the registers: its left half goes first
        HALVES: tl.constexpr = 2 if BLOCK_M * BLOCK_N == 128 * 128 and len(aux) > 4 else 1
        WIDTH: tl.constexpr = BLOCK_N // HALVES
        if HALVES == 1:
            parts = (acc,)
        else:
            parts = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, WIDTH)), (0, 2, 1)))
        for half in tl.static_range(HALVES):
            inner = pid % TILES_N * BLOCK_N + half * WIDTH
            corner = tile.to(tl.int64) * (BLOCK_M * K) + group * KG + inner
            offsets = corner + (tl.arange(0, BLOCK_M)[:, None] * K + tl.arange(0, WIDTH)[None, :])
            lane = inner + tl.arange(0, WIDTH)
            mask = row_mask[:, None] & (lane < KG)[None, :]
            y = EPILOGUE(parts[half], offsets, (group * KG + lane)[None, :], mask, aux, seed)
            if Y_STRIDE != K:
                corner = tile.to(tl.int64) * (BLOCK_M * Y_STRIDE) + group * KG + inner
                apart = tl.arange(0, BLOCK_M)[:, None] * Y_STRIDE
                offsets = corner + (apart + tl.arange(0, WIDTH)[None, :])
            tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
    else:
        pixel = image * (P * Q) + p * Q + q
        offsets = pixel[:, None] * K + (group * KG + column)[None, :]
        mask = row_mask[:, None] & column_mask[None, :]
        acc = EPILOGUE(acc, offsets, (group * KG + column)[None, :], mask, aux, seed)
        value = acc.to(y_ptr.dtype.element_ty)
        # rounded before they are compared, as a pooling of its own would see them
        if TAPS == 2:
            pairs = tl.permute(tl.reshape(value, (BLOCK_M // 2, 2, BLOCK_N)), (0, 2, 1))
            best, v1 = tl.split(pairs)
        else:
            quads = tl.permute(tl.reshape(value, (BLOCK_M // 4, 2, 2, BLOCK_N)), (0, 3, 1, 2))
            left, right = tl.split(quads)
            best, v2 = tl.split(left)
            v1, v3 = tl.split(right)
        take = (v1 > best) | (v1 != v1)
        best = tl.where(take, v1, best)
        index = tl.where(take, 1, 0)
        if TAPS == 4:
            take = (v2 > best) | (v2 != v2)
            best = tl.where(take, v2, best)
            index = tl.where(take, 2, index)
            take = (v3 > best) | (v3 != v3)
            best = tl.where(take, v3, best)
            index = tl.where(take, 3, index)
        pooled = tile * (BLOCK_M // TAPS) + tl.arange(0, BLOCK_M // TAPS)
        pooled_mask = (pooled < rows // TAPS)[:, None] & column_mask[None, :]
        pooled_offsets = pooled.to(tl.int64)[:, None] * K + (group * KG + column)[None, :]
        places = pooled_offsets
        if Y_STRIDE != K:
            places = pooled.to(tl.int64)[:, None] * Y_STRIDE + (group * KG + column)[None, :]
        tl.store(y_ptr + places, best, mask=pooled_mask)
        if index_ptr is not None:
            tl.store(index_ptr + pooled_offsets, index.to(tl.int8), mask=pooled_mask)
