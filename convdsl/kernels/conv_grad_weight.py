"""Gradient of a convolution to weight and bias: partial sums over stretches of the pixels."""

import triton
import triton.language as tl


@triton.jit
def conv_grad_weight(
    x_ptr,
    dy_ptr,
    partial_ptr,
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
    DY_STRIDE: tl.constexpr,
    BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dw[k,r,s,c] = sum over n,p,q of dy[n,p,q,k] * x[n, p*STRIDE_H - PAD_H + r*DILATION_H,
    q*STRIDE_W - PAD_W + s*DILATION_W, c], and db[k] = sum over n,p,q of dy[n,p,q,k] if BIAS.

    x (N,H,W,C), dy (N,P,Q,K), their pixels X_STRIDE and DY_STRIDE elements apart. The ``rows`` =
    N*P*Q pixels (< 2**31) are cut into SPLIT stretches, grid axis 1; stretch i writes its share to
    partial[i], fp32, holding dw as (K,R,S,C/GROUPS) followed by db (K). An empty stretch writes
    zeros. A program makes BLOCK_M filters by BLOCK_N columns (r,s,c) of one group; those of the
    first column tile also sum dy. BLOCK_K is for 16-bit elements; 32-bit ones take 16, which leaves
    registers for the accumulator.
    """
    KG: tl.constexpr = K // GROUPS
    CG: tl.constexpr = C // GROUPS
    COLUMNS: tl.constexpr = R * S * CG
    TILES_M: tl.constexpr = (KG + BLOCK_M - 1) // BLOCK_M
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if x_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K
    INSIDE: tl.constexpr = (
        PAD_H == 0
        and PAD_W == 0
        and (P - 1) * STRIDE_H + (R - 1) * DILATION_H < H
        and (Q - 1) * STRIDE_W + (S - 1) * DILATION_W < W
    )

    pid = tl.program_id(0)
    tile_n = pid % TILES_N
    group = pid // (TILES_N * TILES_M)
    k = pid // TILES_N % TILES_M * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k_mask = k < KG
    column_mask = column < COLUMNS
    if CG % BLOCK_N == 0:  # the tile lies in one tap
        tap = tile_n // (CG // BLOCK_N)
        c = tile_n % (CG // BLOCK_N) * BLOCK_N + tl.arange(0, BLOCK_N)
        h_tap = tap // S * DILATION_H - PAD_H
        w_tap = tap % S * DILATION_W - PAD_W
    else:
        c = column % CG
        h_tap = (column // (S * CG) * DILATION_H - PAD_H)[None, :]
        w_tap = (column // CG % S * DILATION_W - PAD_W)[None, :]

    steps = (rows + STEP - 1) // STEP
    share = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, steps)
    lanes = tl.arange(0, STEP)
    # one moving 64-bit pointer, with 32-bit offsets from it
    dy_first = dy_ptr + first.to(tl.int64) * (STEP * DY_STRIDE) + group * KG
    dy_offsets = lanes[:, None] * DY_STRIDE + k[None, :]

    SIZE: tl.constexpr = K * COLUMNS + (K if BIAS else 0)
    partial = partial_ptr + tl.program_id(1).to(tl.int64) * SIZE
    if BIAS:
        # a loop of its own, which leaves dy in the cache and the product's loop lean
        if tile_n == 0:
            total = tl.zeros((STEP, BLOCK_M), dtype=tl.float32)
            dy_start = dy_first
            for step in range(first, last):
                row_mask = step * STEP + lanes < rows
                dy_mask = row_mask[:, None] & k_mask[None, :]
                dy = tl.load(dy_start + dy_offsets, mask=dy_mask, other=0.0)
                total += dy.to(tl.float32)
                dy_start += STEP * DY_STRIDE
            db = tl.sum(total, axis=0)
            tl.store(partial + K * COLUMNS + group * KG + k, db, mask=k_mask)

    dy_start = dy_first
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(first, last):
        row = step * STEP + lanes
        row_mask = row < rows
        h = (row % (P * Q) // Q * STRIDE_H)[:, None] + h_tap
        w = (row % Q * STRIDE_W)[:, None] + w_tap
        x_mask = row_mask[:, None] & column_mask[None, :]
        if not INSIDE:
            x_mask = x_mask & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        x_rows = x_ptr + (row // (P * Q)).to(tl.int64) * (H * W * X_STRIDE) + group * CG
        dy_mask = row_mask[:, None] & k_mask[None, :]
        dy = tl.load(dy_start + dy_offsets, mask=dy_mask, other=0.0)
        x = tl.load(x_rows[:, None] + ((h * W + w) * X_STRIDE + c[None, :]), mask=x_mask, other=0.0)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)
        dy_start += STEP * DY_STRIDE

    tl.store(
        partial + ((group * KG + k) * COLUMNS)[:, None] + column[None, :],
        acc,
        mask=k_mask[:, None] & column_mask[None, :],
    )
