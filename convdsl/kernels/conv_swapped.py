"""Convolution of stride 1 with exchanged operands, which come as boxes of tensor descriptors.

On Hopper both operands of the product then stay in shared memory: a box of several axes as the
left one would go through registers.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def conv_swapped(
    x_box,
    w_box,
    bias_ptr,
    y_ptr,
    aux,
    seed,
    images,
    C: tl.constexpr,
    K: tl.constexpr,
    P: tl.constexpr,
    Q: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    FIRST_H: tl.constexpr,
    FIRST_W: tl.constexpr,
    STEP_H: tl.constexpr,
    STEP_W: tl.constexpr,
    TURNED: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[n,p,q,k] = EPILOGUE(bias[k] + sum over r,s,c of
    x[n, p + FIRST_H + r*STEP_H, q + FIRST_W + s*STEP_W, c] * w[k,r,s,c]), with x zero outside its
    map; w[c,r,s,k] if TURNED, which is the gradient to the input of a convolution of stride 1.

    x (N,H,W,C) in boxes (BLOCK_M / (BOX_H*BOX_W), BOX_H, BOX_W, STEP), w (K,R,S,C) in boxes
    (BLOCK_N, 1, 1, STEP), or (C,R,S,K) in (STEP, 1, 1, BLOCK_N); bias (K) or None, y (N,P,Q,K) with
    its pixels Y_STRIDE elements apart. BOX_H divides P and BOX_W divides Q: but for ``images``, N,
    no box overhangs. STEP is BLOCK_K, half of it for 32-bit elements. A program makes
    acc[k, pixel] of BLOCK_N channels by BLOCK_M pixels, the pixels of a box row by row.
    """
    TILES_N: tl.constexpr = (K + BLOCK_N - 1) // BLOCK_N
    BOXES_W: tl.constexpr = Q // BOX_W
    BOXES: tl.constexpr = P // BOX_H * BOXES_W
    AREA: tl.constexpr = BOX_H * BOX_W
    STEP: tl.constexpr = x_box.block_shape[3]
    C_STEPS: tl.constexpr = C // STEP

    # column tiles are neighbours, so that they find the same pixels in the cache
    pid = tl.program_id(0)
    box = pid // TILES_N
    first = pid % TILES_N * BLOCK_N
    image = box // BOXES * (BLOCK_M // AREA)
    p = box % BOXES // BOXES_W * BOX_H
    q = box % BOXES_W * BOX_W

    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for step in range(R * S * C_STEPS):
        tap = step // C_STEPS
        c = step % C_STEPS * STEP
        r = tap // S
        s = tap % S
        x = x_box.load([image, p + (FIRST_H + r * STEP_H), q + (FIRST_W + s * STEP_W), c])
        if TURNED:
            w = tl.trans(w_box.load([c, tap * K + first]))
        else:
            w = w_box.load([first, tap * C + c])
        x = tl.trans(tl.reshape(x, (BLOCK_M, STEP)))
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    column = first + tl.arange(0, BLOCK_N)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=column < K, other=0.0)
        acc += bias.to(tl.float32)[:, None]
    lane = tl.arange(0, BLOCK_M)
    inner = lane // AREA * (P * Q) + lane % AREA // BOX_W * Q + lane % BOX_W
    corner = image.to(tl.int64) * (P * Q) + (p * Q + q)
    mask = (image + lane // AREA < images)[:, None] & (column < K)[None, :]
    offsets = corner * K + (inner[:, None] * K + column[None, :])
    y = EPILOGUE(tl.trans(acc), offsets, column[None, :], mask, aux, seed)
    if Y_STRIDE != K:
        offsets = corner * Y_STRIDE + (inner[:, None] * Y_STRIDE + column[None, :])
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
