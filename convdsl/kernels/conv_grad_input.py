"""Gradient of a convolution to its input, gathered phase by phase of the stride.

It is also the forward pass of a transposed convolution, which adds a bias.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def conv_grad_input(
    dy_ptr,
    w_ptr,
    bias_ptr,
    dx_ptr,
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
    DY_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    PERIOD_H: tl.constexpr,
    PERIOD_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(bias[c] + sum over k and the taps r,s that reach h,w of
    dy[n, (h + PAD_H - r*DILATION_H) / STRIDE_H, (w + PAD_W - s*DILATION_W) / STRIDE_W, k]
    * w[k,r,s,c]); a tap reaches h where the division is exact and the result inside dy.

    dy (N,P,Q,K), w (K,R,S,C/GROUPS), bias (C) or None, dx (N,H,W,C); pixels of dy and dx are
    DY_STRIDE and DX_STRIDE elements apart, those of other tensors C. All pixels whose h and w
    leave the same remainder by the stride (a phase, grid axis 1) are reached by the same taps,
    which are PERIOD = STRIDE / gcd(STRIDE, DILATION) apart: no product with a missing dy is formed
    but at the border. ``rows`` is N * ceil(H/STRIDE_H) * ceil(W/STRIDE_W), < 2**31. BLOCK_K is for
    16-bit elements; 32-bit ones take half, at least 16.
    """
    KG: tl.constexpr = K // GROUPS
    CG: tl.constexpr = C // GROUPS
    TILES_N: tl.constexpr = (CG + BLOCK_N - 1) // BLOCK_N
    HALVE: tl.constexpr = dy_ptr.dtype.element_ty.primitive_bitwidth == 32 and BLOCK_K > 16
    STEP: tl.constexpr = BLOCK_K // 2 if HALVE else BLOCK_K
    K_STEPS: tl.constexpr = (KG + STEP - 1) // STEP
    PHASE_H: tl.constexpr = (H + STRIDE_H - 1) // STRIDE_H
    PHASE_W: tl.constexpr = (W + STRIDE_W - 1) // STRIDE_W
    ONE_PHASE: tl.constexpr = STRIDE_H == 1 and STRIDE_W == 1

    pid = tl.program_id(0)
    group = pid // TILES_N % GROUPS
    row = pid // (TILES_N * GROUPS) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    phase_h = tl.program_id(1) // STRIDE_W
    phase_w = tl.program_id(1) % STRIDE_W
    image = (row // (PHASE_H * PHASE_W)).to(tl.int64)
    h = row % (PHASE_H * PHASE_W) // PHASE_W * STRIDE_H + phase_h
    w = row % PHASE_W * STRIDE_W + phase_w
    row_mask = (row < rows) & (h < H) & (w < W)
    column_mask = column < CG

    # first tap of the phase and how many there are; none if no tap reaches it
    r_first = tl.full((), R, tl.int32)
    for i in tl.static_range(PERIOD_H):
        r_first = tl.where((i * DILATION_H - phase_h - PAD_H) % STRIDE_H == 0, i, r_first)
    s_first = tl.full((), S, tl.int32)
    for i in tl.static_range(PERIOD_W):
        s_first = tl.where((i * DILATION_W - phase_w - PAD_W) % STRIDE_W == 0, i, s_first)
    r_count = (R - r_first + PERIOD_H - 1) // PERIOD_H
    s_count = (S - s_first + PERIOD_W - 1) // PERIOD_W

    lanes = tl.arange(0, STEP)
    dy_rows = dy_ptr + image * (P * Q * DY_STRIDE) + group * KG
    w_columns = w_ptr + column
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(r_count * s_count * K_STEPS):
        tap = step // K_STEPS
        k = step % K_STEPS * STEP + lanes
        r = r_first + tap // s_count * PERIOD_H
        s = s_first + tap % s_count * PERIOD_W
        p_scaled = h + (PAD_H - r * DILATION_H)
        q_scaled = w + (PAD_W - s * DILATION_W)
        p = p_scaled // STRIDE_H
        q = q_scaled // STRIDE_W
        reached = row_mask & (p_scaled >= 0) & (p < P) & (q_scaled >= 0) & (q < Q)
        a = tl.load(
            dy_rows[:, None] + ((p * Q + q) * DY_STRIDE)[:, None] + k[None, :],
            mask=reached[:, None] & (k < KG)[None, :],
            other=0.0,
        )
        b = tl.load(
            w_columns[None, :] + ((group * KG + k) * (R * S * CG))[:, None] + (r * S + s) * CG,
            mask=(k < KG)[:, None] & column_mask[None, :],
            other=0.0,
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + group * CG + column, mask=column_mask, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    tile = (pid // (TILES_N * GROUPS)).to(tl.int64)
    if ONE_PHASE:  # the rows are the pixels in order: nothing of h and w is kept through the loop
        row_mask = tile * BLOCK_M + tl.arange(0, BLOCK_M) < rows
    else:
        pixel = image * (H * W) + h * W + w
    # two large tiles do not fit the registers at once: the left half of the columns goes first
    HALVES: tl.constexpr = 2 if BLOCK_M * BLOCK_N == 128 * 128 and len(aux) > 0 else 1
    WIDTH: tl.constexpr = BLOCK_N // HALVES
    if HALVES == 1:
        parts = (acc,)
    else:
        parts = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, WIDTH)), (0, 2, 1)))
    for half in tl.static_range(HALVES):
        column = pid % TILES_N * BLOCK_N + half * WIDTH + tl.arange(0, WIDTH)
        if ONE_PHASE:
            corner = tile * (BLOCK_M * C) + group * CG + pid % TILES_N * BLOCK_N
            inner = tl.arange(0, BLOCK_M)[:, None] * C + tl.arange(0, WIDTH)[None, :]
            offsets = corner + half * WIDTH + inner
        else:
            offsets = pixel[:, None] * C + (group * CG + column)[None, :]
        mask = row_mask[:, None] & (column < CG)[None, :]
        dx = EPILOGUE(parts[half], offsets, (group * CG + column)[None, :], mask, aux, seed)
        if DX_STRIDE != C:
            if ONE_PHASE:
                corner = tile * (BLOCK_M * DX_STRIDE) + group * CG + pid % TILES_N * BLOCK_N
                inner = tl.arange(0, BLOCK_M)[:, None] * DX_STRIDE + tl.arange(0, WIDTH)[None, :]
                offsets = corner + half * WIDTH + inner
            else:
                offsets = pixel[:, None] * DX_STRIDE + (group * CG + column)[None, :]
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
