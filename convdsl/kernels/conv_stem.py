"""First convolution of a network of coloured images: three channels padded to four.

Pixels of four channels are loaded as vectors, and the pixels of a row of the filter follow each
other in memory: a row of taps is one run of numbers. Border and channels are padded beforehand.
"""

import triton
import triton.language as tl

from convdsl.kernels.product import add_product


@triton.jit
def pad_map(
    x_ptr,
    y_ptr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    OC: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    X_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y[n,h,w,c] = x[n, h - TOP, w - LEFT, c], zero where x has nothing.

    x (N,H,W,C), its pixels X_STRIDE elements apart, y (N,OH,OW,OC). A program makes BLOCK elements
    of one sample.
    """
    SIZE: tl.constexpr = OH * OW * OC
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    image = (tl.program_id(0) // BLOCKS).to(tl.int64)
    inner = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    c = inner % OC
    w = inner // OC % OW - LEFT
    h = inner // (OC * OW) - TOP
    inside = (inner < SIZE) & (c < C) & (w >= 0) & (w < W) & (h >= 0) & (h < H)
    x_start = x_ptr + image * (H * W * X_STRIDE)
    x = tl.load(x_start + ((h * W + w) * X_STRIDE + c), mask=inside, other=0.0)
    tl.store(y_ptr + image * SIZE + inner, x, mask=inner < SIZE)


@triton.jit(do_not_specialize=["seed"])
def conv_stem(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    aux,
    seed,
    rows,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    RUN: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    EXCHANGED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[n,p,q,k] = EPILOGUE(bias[k] + sum over r and i < RUN of
    x[n, p*STRIDE_H + r*DILATION_H, q*STRIDE_W + i] * w[k,r,i]).

    x (N,HEIGHT,WIDTH) is a padded map with its columns and channels as one axis, so STRIDE_W counts
    numbers; w (K,R,BLOCK_K) has the RUN numbers of a row of taps first; bias (K) or None, y
    (N,P,Q,K) with its pixels Y_STRIDE elements apart. ``rows`` = N*P*Q < 2**31. No window leaves
    the padded map.
    """
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    tile = pid // TILES_N
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = row < rows
    column_mask = column < K
    lane = tl.arange(0, BLOCK_K)
    corner = (row // (P * Q)).to(tl.int64) * (HEIGHT * WIDTH)
    x_rows = corner + (row % (P * Q) // Q * (STRIDE_H * WIDTH) + row % Q * STRIDE_W)
    acc = tl.zeros((BLOCK_N, BLOCK_M) if EXCHANGED else (BLOCK_M, BLOCK_N), tl.float32)
    for r in range(R):
        x_offsets = x_rows[:, None] + (r * (DILATION_H * WIDTH) + lane)[None, :]
        w_offsets = column[None, :] * (R * BLOCK_K) + (r * BLOCK_K + lane)[:, None]
        a = tl.load(x_ptr + x_offsets, mask=row_mask[:, None] & (lane < RUN)[None, :], other=0.0)
        b = tl.load(w_ptr + w_offsets, mask=column_mask[None, :], other=0.0)
        acc = add_product(acc, a, b, EXCHANGED, PRECISION)

    if EXCHANGED:
        acc = tl.trans(acc)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=column_mask, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    inner = tl.arange(0, BLOCK_M)[:, None]
    mask = row_mask[:, None] & column_mask[None, :]
    offsets = tile.to(tl.int64) * (BLOCK_M * K) + (inner * K + column[None, :])
    y = EPILOGUE(acc, offsets, column[None, :], mask, aux, seed)
    if Y_STRIDE != K:
        offsets = tile.to(tl.int64) * (BLOCK_M * Y_STRIDE) + (inner * Y_STRIDE + column[None, :])
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def conv_stem_grad_weight(
    x_ptr,
    dy_ptr,
    partial_ptr,
    rows,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    RUN: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dw[k,r,s,c] = sum over n,p,q of dy[n,p,q,k] * x[n, p*STRIDE_H + r*DILATION_H,
    q*STRIDE_W + s*RUN/S + c], and db[k] = sum over n,p,q of dy[n,p,q,k] if BIAS.

    x as in `conv_stem`, dy (N,P,Q,K) with its pixels DY_STRIDE elements apart; RUN is S pixels of
    padded channels. The ``rows`` = N*P*Q pixels (< 2**31) are cut into SPLIT stretches, grid axis
    1; stretch i writes its share to partial[i], fp32, holding dw as (K,R,S,C) followed by db (K).
    An empty stretch writes zeros. A program makes BLOCK_M filters by BLOCK_N columns, numbers of
    rows of taps that are padded to a power of two; those of the first columns also sum dy. BLOCK_K
    is for 16-bit elements; 32-bit ones take 16.
    """
    PIXEL: tl.constexpr = RUN // S
    ROOM: tl.constexpr = triton.next_power_of_2(RUN)
    TILES_N: tl.constexpr = (R * ROOM + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if x_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K
    pid = tl.program_id(0)
    k = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    r = column // ROOM
    i = column % ROOM
    column_mask = (r < R) & (i < RUN)
    k_mask = k < K

    steps = (rows + STEP - 1) // STEP
    share = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, steps)
    lanes = tl.arange(0, STEP)
    dy_start = dy_ptr + first.to(tl.int64) * (STEP * DY_STRIDE)
    dy_offsets = lanes[:, None] * DY_STRIDE + k[None, :]
    x_columns = r * (DILATION_H * WIDTH) + i
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for step in range(first, last):
        row = step * STEP + lanes
        row_mask = row < rows
        corner = (row // (P * Q)).to(tl.int64) * (HEIGHT * WIDTH)
        x_rows = corner + (row % (P * Q) // Q * (STRIDE_H * WIDTH) + row % Q * STRIDE_W)
        x_mask = row_mask[:, None] & column_mask[None, :]
        dy = tl.load(dy_start + dy_offsets, mask=row_mask[:, None] & k_mask[None, :], other=0.0)
        x = tl.load(x_ptr + (x_rows[:, None] + x_columns[None, :]), mask=x_mask, other=0.0)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)
        if BIAS:
            total += tl.sum(dy.to(tl.float32), axis=0)
        dy_start += STEP * DY_STRIDE

    SIZE: tl.constexpr = K * R * S * C + (K if BIAS else 0)
    partial = partial_ptr + tl.program_id(1).to(tl.int64) * SIZE
    c = i % PIXEL
    places = k[:, None] * (R * S * C) + ((r * S + i // PIXEL) * C + c)[None, :]
    tl.store(partial + places, acc, mask=k_mask[:, None] & (column_mask & (c < C))[None, :])
    if BIAS:
        if pid % TILES_N == 0:
            tl.store(partial + K * R * S * C + k, total, mask=k_mask)
