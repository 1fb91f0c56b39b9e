"""Depthwise convolution, each channel by itself: forward and the gradients to input and weight.

No product of matrices: lanes run along the channels, so that every load and store is contiguous.
The nests keep the weight as (R,S,K) in memory; K = MULTIPLIER * C, and filter k sees channel
k // MULTIPLIER.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def depthwise_forward(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    x_aux,
    aux,
    seed,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
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
    MULTIPLIER: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[n,p,q,k] = EPILOGUE(bias[k] + sum over r,s of w[r,s,k] * x[n, p*STRIDE_H - PAD_H +
    r*DILATION_H, q*STRIDE_W - PAD_W + s*DILATION_W, k // MULTIPLIER]), x zero outside its map.

    x (N,H,W,K/MULTIPLIER), w (R,S,K), bias (K) or None, y (N,P,Q,K); pixels of x and y are X_STRIDE
    and Y_STRIDE elements apart. ``rows`` = N*P*Q < 2**31. A program makes ROWS pixels by COLS
    channels. x stands for X_PROLOGUE(x), inside its map, if that
    is not None (see `convdsl.kernels.rows_product`).
    """
    C: tl.constexpr = K // MULTIPLIER
    TILES: tl.constexpr = (K + COLS - 1) // COLS
    pid = tl.program_id(0)
    row = pid // TILES * ROWS + tl.arange(0, ROWS)
    k = pid % TILES * COLS + tl.arange(0, COLS)
    row_mask = row < rows
    k_mask = k < K
    image = (row // (P * Q)).to(tl.int64)
    p = row % (P * Q) // Q
    q = row % Q
    x_rows = x_ptr + image * (H * W * X_STRIDE)

    acc = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for r in range(R):
        h = p * STRIDE_H - PAD_H + r * DILATION_H
        h_mask = row_mask & (h >= 0) & (h < H)
        for s in tl.static_range(S):
            w = q * STRIDE_W - PAD_W + s * DILATION_W
            pixel_mask = h_mask & (w >= 0) & (w < W)
            c = (k // MULTIPLIER)[None, :]
            x_mask = pixel_mask[:, None] & k_mask[None, :]
            pixel = (h * W + w)[:, None]
            x = tl.load(x_rows[:, None] + (pixel * X_STRIDE + c), mask=x_mask, other=0.0)
            if X_PROLOGUE is not None:
                offsets = (image * (H * W * C))[:, None] + (pixel * C + c)
                made = X_PROLOGUE(x.to(tl.float32), offsets, c, x_mask, x_aux, seed)
                x = tl.where(x_mask, made, 0.0)
            weight = tl.load(w_ptr + (r * S + s) * K + k, mask=k_mask, other=0.0)
            acc += x.to(tl.float32) * weight.to(tl.float32)[None, :]

    if bias_ptr is not None:
        acc += tl.load(bias_ptr + k, mask=k_mask, other=0.0).to(tl.float32)[None, :]
    offsets = row.to(tl.int64)[:, None] * K + k[None, :]
    mask = row_mask[:, None] & k_mask[None, :]
    acc = EPILOGUE(acc, offsets, k[None, :], mask, aux, seed)
    if Y_STRIDE != K:
        offsets = row.to(tl.int64)[:, None] * Y_STRIDE + k[None, :]
    tl.store(y_ptr + offsets, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def depthwise_grad_input(
    dy_ptr,
    w_ptr,
    dx_ptr,
    aux,
    seed,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
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
    MULTIPLIER: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[n,h,w,c] = EPILOGUE(sum over the filters k of channel c and the taps r,s that reach h,w
    of w[r,s,k] * dy[n, (h + PAD_H - r*DILATION_H) / STRIDE_H, (w + PAD_W - s*DILATION_W) /
    STRIDE_W, k]); a tap reaches h where the division is exact and the result inside dy.

    dy (N,P,Q,K), w (R,S,K), dx (N,H,W,K/MULTIPLIER); pixels of dy and dx are DY_STRIDE and
    DX_STRIDE elements apart. ``rows`` = N*H*W < 2**31. Gathered, so that no two programs write the
    same pixel. A program makes ROWS pixels by COLS channels.
    """
    C: tl.constexpr = K // MULTIPLIER
    TILES: tl.constexpr = (C + COLS - 1) // COLS
    pid = tl.program_id(0)
    row = pid // TILES * ROWS + tl.arange(0, ROWS)
    c = pid % TILES * COLS + tl.arange(0, COLS)
    row_mask = row < rows
    c_mask = c < C
    image = (row // (H * W)).to(tl.int64)
    h = row % (H * W) // W
    w = row % W
    dy_rows = dy_ptr + image * (P * Q * DY_STRIDE)

    acc = tl.zeros((ROWS, COLS), dtype=tl.float32)
    for r in range(R):
        p_scaled = h + PAD_H - r * DILATION_H
        p = p_scaled // STRIDE_H
        p_mask = row_mask & (p_scaled >= 0) & (p < P)
        if STRIDE_H > 1:
            p_mask = p_mask & (p_scaled % STRIDE_H == 0)
        for s in tl.static_range(S):
            q_scaled = w + PAD_W - s * DILATION_W
            q = q_scaled // STRIDE_W
            reached = p_mask & (q_scaled >= 0) & (q < Q)
            if STRIDE_W > 1:
                reached = reached & (q_scaled % STRIDE_W == 0)
            for m in range(MULTIPLIER):
                k = c * MULTIPLIER + m
                dy = tl.load(
                    dy_rows[:, None] + ((p * Q + q) * DY_STRIDE)[:, None] + k[None, :],
                    mask=reached[:, None] & c_mask[None, :],
                    other=0.0,
                )
                weight = tl.load(w_ptr + (r * S + s) * K + k, mask=c_mask, other=0.0)
                acc += dy.to(tl.float32) * weight.to(tl.float32)[None, :]

    offsets = row.to(tl.int64)[:, None] * C + c[None, :]
    mask = row_mask[:, None] & c_mask[None, :]
    acc = EPILOGUE(acc, offsets, c[None, :], mask, aux, seed)
    if DX_STRIDE != C:
        offsets = row.to(tl.int64)[:, None] * DX_STRIDE + c[None, :]
    tl.store(dx_ptr + offsets, acc.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def depthwise_grad_weight(
    x_ptr,
    dy_ptr,
    partial_ptr,
    x_aux,
    seed,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
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
    MULTIPLIER: tl.constexpr,
    X_STRIDE: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dw[k,r,s] = sum over n,p,q of dy[n,p,q,k] * x[n, p*STRIDE_H - PAD_H + r*DILATION_H,
    q*STRIDE_W - PAD_W + s*DILATION_W, k // MULTIPLIER], and db[k] = sum of dy[n,p,q,k] if BIAS.

    x (N,H,W,K/MULTIPLIER), dy (N,P,Q,K), whose pixels are X_STRIDE and DY_STRIDE elements apart.
    The ``rows`` = N*P*Q pixels (< 2**31) are cut into SPLIT stretches, grid axis 1; stretch i
    writes its share to partial[i], fp32, holding dw as (R,S,K) followed by db (K). An empty stretch
    writes zeros. A program makes TAPS taps of COLS channels, ROWS pixels at a time, which are
    summed at the end; the bias is one tap more, whose x is 1. x stands for X_PROLOGUE(x) as in the
    forward nest.
    """
    C: tl.constexpr = K // MULTIPLIER
    SUMS: tl.constexpr = R * S + (1 if BIAS else 0)
    TILES: tl.constexpr = (K + COLS - 1) // COLS
    pid = tl.program_id(0)
    tap = (pid // TILES * TAPS + tl.arange(0, TAPS))[:, None, None]
    k = (pid % TILES * COLS + tl.arange(0, COLS))[None, None, :]
    lanes = tl.arange(0, ROWS)[None, :, None]
    h_tap = tap // S * DILATION_H - PAD_H
    w_tap = tap % S * DILATION_W - PAD_W
    k_mask = k < K

    steps = (rows + ROWS - 1) // ROWS
    share = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, steps)
    acc = tl.zeros((TAPS, ROWS, COLS), dtype=tl.float32)
    for step in range(first, last):
        row = step * ROWS + lanes
        mask = (row < rows) & k_mask
        dy = tl.load(dy_ptr + row.to(tl.int64) * DY_STRIDE + k, mask=mask, other=0.0).to(tl.float32)
        h = row % (P * Q) // Q * STRIDE_H + h_tap
        w = row % Q * STRIDE_W + w_tap
        inside = (tap < R * S) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
        image = (row // (P * Q)).to(tl.int64) * (H * W)
        c = k // MULTIPLIER
        inner = (h * W + w) * X_STRIDE + c
        x = tl.load(x_ptr + image * X_STRIDE + inner, mask=mask & inside, other=0.0).to(tl.float32)
        if X_PROLOGUE is not None:
            offsets = image * C + ((h * W + w) * C + c)
            made = X_PROLOGUE(x, offsets, c, mask & inside, x_aux, seed)
            x = tl.where(mask & inside, made, 0.0)
        if BIAS:
            x = tl.where(tap == R * S, 1.0, x)
        acc += dy * x

    partial = partial_ptr + tl.program_id(1).to(tl.int64) * (K * SUMS)
    total = tl.sum(acc, axis=1, keep_dims=True)
    tl.store(partial + tap * K + k, total, mask=(tap < SUMS) & k_mask)


@triton.jit(do_not_specialize=["seed"])
def depthwise_gradients(
    x_ptr,
    dy_ptr,
    w_ptr,
    dx_ptr,
    partial_ptr,
    x_aux,
    aux,
    seed,
    rows,
    H: tl.constexpr,
    W: tl.constexpr,
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
    X_STRIDE: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Both gradients at once, so that dy is read once: dx as `depthwise_grad_input` makes it, and

        dw[k,r,s] = sum over n,h,w of x[n,h,w,k] * dy[n, (h + PAD_H - r*DILATION_H) / STRIDE_H,
        (w + PAD_W - s*DILATION_W) / STRIDE_W, k], where dx takes that dy too.

    x and dx (N,H,W,K), dy (N,P,Q,K): a filter per channel. The ``rows`` = N*H*W pixels (< 2**31)
    are cut into SPLIT stretches, grid axis 1, of blocks of ROWS; stretch i writes its share of dw
    to partial[i] (R,S,K), fp32. A program makes COLS channels; its sums lie beside each other, so
    taps are few. The padding has no term: where dy is not finite there, dw may yet be. x stands for
    X_PROLOGUE(x) as in the forward nest. The block's number is the last of EPILOGUE's tensors.
    """
    k = tl.program_id(0) * COLS + tl.arange(0, COLS)
    k_mask = k < K
    steps = (rows + ROWS - 1) // ROWS
    share = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, steps)
    sums = ()
    for _ in tl.static_range(R * S):
        sums = sums + (tl.zeros((ROWS, COLS), dtype=tl.float32),)  # noqa: RUF005
    for number in tl.range(last - first, disable_licm=True):
        step = first + number
        row = step * ROWS + tl.arange(0, ROWS)
        row_mask = row < rows
        mask = row_mask[:, None] & k_mask[None, :]
        image = (row // (H * W)).to(tl.int64)
        h = row % (H * W) // W
        w = row % W
        place = row.to(tl.int64)[:, None]
        x = tl.load(x_ptr + place * X_STRIDE + k[None, :], mask=mask, other=0.0).to(tl.float32)
        if X_PROLOGUE is not None:
            x = X_PROLOGUE(x, place * K + k[None, :], k[None, :], mask, x_aux, seed)
        dy_rows = dy_ptr + image * (P * Q * DY_STRIDE)
        acc = tl.zeros((ROWS, COLS), dtype=tl.float32)
        added = ()
        for tap in tl.static_range(R * S):
            p_scaled = h + PAD_H - tap // S * DILATION_H
            q_scaled = w + PAD_W - tap % S * DILATION_W
            p = p_scaled // STRIDE_H
            q = q_scaled // STRIDE_W
            reached = row_mask & (p_scaled >= 0) & (p < P) & (q_scaled >= 0) & (q < Q)
            if STRIDE_H > 1:
                reached = reached & (p_scaled % STRIDE_H == 0)
            if STRIDE_W > 1:
                reached = reached & (q_scaled % STRIDE_W == 0)
            takes = reached[:, None] & k_mask[None, :]
            inner = ((p * Q + q) * DY_STRIDE)[:, None] + k[None, :]
            dy = tl.load(dy_rows[:, None] + inner, mask=takes, other=0.0).to(tl.float32)
            weight = tl.load(w_ptr + tap * K + k, mask=k_mask, other=0.0).to(tl.float32)
            acc += dy * weight[None, :]
            added = added + (sums[tap] + tl.where(takes, x * dy, 0.0),)  # noqa: RUF005
        sums = added
        tensors = aux + (step,)  # noqa: RUF005
        acc = EPILOGUE(acc, place * K + k[None, :], k[None, :], mask, tensors, seed)
        to = dx_ptr + place * DX_STRIDE + k[None, :]
        tl.store(to, acc.to(dx_ptr.dtype.element_ty), mask=mask)

    partial = partial_ptr + tl.program_id(1).to(tl.int64) * (R * S * K)
    for tap in tl.static_range(R * S):
        tl.store(partial + tap * K + k, tl.sum(sums[tap], axis=0), mask=k_mask)
