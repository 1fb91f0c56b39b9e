"""Locally connected layer, forward and backward: a matrix product of its own at every position.

Weights have one set of filters per output position, so a program works at one position (or one
pixel of the input) for many images; where it stands is a scalar. Sequences are maps of height 1.
``images`` is N, and tensors may hold more than 2**31 elements.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def local_forward(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    aux,
    seed,
    images,
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
    EPILOGUE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[n,p,q,k] = EPILOGUE(bias[p,q,k] + sum over r,s,c of x[n, p*STRIDE_H - PAD_H + r,
    q*STRIDE_W - PAD_W + s, c] * w[p,q,k,r,s,c]), with x zero outside its map.

    x (N,H,W,C), w (P,Q,K,R,S,C), bias (P,Q,K) or None, y (N,P,Q,K). A program makes BLOCK_M images
    by BLOCK_N filters of one position. BLOCK_K is for 16-bit elements; 32-bit ones take 16, which
    leaves registers for the accumulator.
    """
    DEPTH: tl.constexpr = R * S * C
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if x_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K

    # tiles of images are neighbours, so that they find the same filters in the cache
    pid = tl.program_id(0)
    tiles_m = (images + BLOCK_M - 1) // BLOCK_M
    image = (pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    k = pid // tiles_m % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    position = (pid // (tiles_m * TILES_N)).to(tl.int64)
    h_start = (position // Q * STRIDE_H - PAD_H).to(tl.int32)
    w_start = (position % Q * STRIDE_W - PAD_W).to(tl.int32)
    image_mask = image < images
    k_mask = k < K

    lanes = tl.arange(0, STEP)
    x_rows = x_ptr + image * (H * W * C)
    own = w_ptr + position * (K * DEPTH)  # the filters of this position
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range((DEPTH + STEP - 1) // STEP):
        # w is contiguous in j = (r*S + s)*C + c
        j = step * STEP + lanes
        h = h_start + j // (S * C)
        w = w_start + j // C % S
        inside = (j < DEPTH) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        a = tl.load(
            x_rows[:, None] + ((h * W + w) * C + j % C)[None, :],
            mask=image_mask[:, None] & inside[None, :],
            other=0.0,
        )
        b = tl.load(
            own + (k[None, :] * DEPTH + j[:, None]),
            mask=(j < DEPTH)[:, None] & k_mask[None, :],
            other=0.0,
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + position * K + k, mask=k_mask, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    offsets = (image * (P * Q * K) + position * K)[:, None] + k[None, :]
    mask = image_mask[:, None] & k_mask[None, :]
    acc = EPILOGUE(acc, offsets, k[None, :], mask, aux, seed)
    tl.store(y_ptr + offsets, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def local_grad_input(
    dy_ptr,
    w_ptr,
    dx_ptr,
    aux,
    seed,
    images,
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
    EPILOGUE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum over the positions p,q whose window holds h,w and over k of
    dy[n,p,q,k] * w[p,q,k,r,s,c]), with r = h + PAD_H - p*STRIDE_H, s = w + PAD_W - q*STRIDE_W.

    dy (N,P,Q,K), w (P,Q,K,R,S,C), dx (N,H,W,C). A program makes BLOCK_M images by BLOCK_N channels
    of one pixel; those positions are a rectangle, so no product is formed in vain. BLOCK_K is for
    16-bit elements; 32-bit ones take 16.
    """
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if dy_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K
    K_STEPS: tl.constexpr = (K + STEP - 1) // STEP

    pid = tl.program_id(0)
    tiles_m = (images + BLOCK_M - 1) // BLOCK_M
    image = (pid % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    c = pid // tiles_m % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = pid // (tiles_m * TILES_N)
    h = pixel // W + PAD_H
    w = pixel % W + PAD_W
    image_mask = image < images
    c_mask = c < C

    # a quotient of a negative number would be rounded towards 0
    p_first = tl.maximum(h - R + STRIDE_H, 0) // STRIDE_H
    q_first = tl.maximum(w - S + STRIDE_W, 0) // STRIDE_W
    p_count = tl.maximum(tl.minimum(h // STRIDE_H, P - 1) - p_first + 1, 0)
    q_count = tl.maximum(tl.minimum(w // STRIDE_W, Q - 1) - q_first + 1, 0)

    lanes = tl.arange(0, STEP)
    # 64-bit bases that move, with 32-bit offsets of filters and channels from them
    dy_rows = image * (P * Q * K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(p_count * q_count * K_STEPS):
        tap = step // K_STEPS
        k = step % K_STEPS * STEP + lanes
        p = p_first + tap // q_count
        q = q_first + tap % q_count
        filters = (p * Q + q).to(tl.int64) * K
        dy_start = dy_ptr + filters
        own = w_ptr + filters * (R * S * C) + ((h - p * STRIDE_H) * S + w - q * STRIDE_W) * C
        a = tl.load(
            dy_start + (dy_rows[:, None] + k[None, :]),
            mask=image_mask[:, None] & (k < K)[None, :],
            other=0.0,
        )
        b = tl.load(
            own + (k[:, None] * (R * S * C) + c[None, :]),
            mask=(k < K)[:, None] & c_mask[None, :],
            other=0.0,
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    offsets = (image * (H * W * C) + pixel.to(tl.int64) * C)[:, None] + c[None, :]
    mask = image_mask[:, None] & c_mask[None, :]
    acc = EPILOGUE(acc, offsets, c[None, :], mask, aux, seed)
    tl.store(dx_ptr + offsets, acc.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def local_grad_weight(
    x_ptr,
    dy_ptr,
    dw_ptr,
    db_ptr,
    images,
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
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dw[p,q,k,r,s,c] = sum over n of dy[n,p,q,k] * x[n, p*STRIDE_H - PAD_H + r,
    q*STRIDE_W - PAD_W + s, c], and db[p,q,k] = sum over n of dy[n,p,q,k].

    x (N,H,W,C), dy (N,P,Q,K), dw (P,Q,K,R,S,C) fp32, db (P,Q,K) fp32 or None. A program makes
    BLOCK_M filters by BLOCK_N columns (r,s,c) of one position; those of the first column tile also
    sum dy. Images are added in order. BLOCK_K is for 16-bit elements; 32-bit ones take 16.
    """
    DEPTH: tl.constexpr = R * S * C
    TILES_M: tl.constexpr = (K + BLOCK_M - 1) // BLOCK_M
    TILES_N: tl.constexpr = (DEPTH + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if x_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K

    pid = tl.program_id(0)
    tile_n = pid % TILES_N
    k = pid // TILES_N % TILES_M * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    position = (pid // (TILES_N * TILES_M)).to(tl.int64)
    k_mask = k < K
    h = (position // Q * STRIDE_H - PAD_H).to(tl.int32) + column // (S * C)
    w = (position % Q * STRIDE_W - PAD_W).to(tl.int32) + column // C % S
    inside = (column < DEPTH) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    lanes = tl.arange(0, STEP)
    dy_columns = dy_ptr + position * K + k
    x_columns = x_ptr + ((h * W + w) * C + column % C)

    if db_ptr is not None:
        # a loop of its own, which leaves dy in the cache and the product's loop lean
        if tile_n == 0:
            total = tl.zeros((STEP, BLOCK_M), dtype=tl.float32)
            for start in range(0, images, STEP):
                image = (start + lanes).to(tl.int64)
                dy = tl.load(
                    dy_columns[None, :] + (image * (P * Q * K))[:, None],
                    mask=(image < images)[:, None] & k_mask[None, :],
                    other=0.0,
                )
                total += dy.to(tl.float32)
            db = tl.sum(total, axis=0)
            tl.store(db_ptr + position * K + k, db, mask=k_mask)

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, images, STEP):
        image = (start + lanes).to(tl.int64)
        image_mask = (image < images)[:, None]
        dy = tl.load(
            dy_columns[None, :] + (image * (P * Q * K))[:, None],
            mask=image_mask & k_mask[None, :],
            other=0.0,
        )
        x = tl.load(
            x_columns[None, :] + (image * (H * W * C))[:, None],
            mask=image_mask & inside[None, :],
            other=0.0,
        )
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)
    tl.store(
        dw_ptr + ((position * K + k) * DEPTH)[:, None] + column[None, :],
        acc,
        mask=k_mask[:, None] & (column < DEPTH)[None, :],
    )
