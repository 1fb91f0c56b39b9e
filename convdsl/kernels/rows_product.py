"""Products of rows of channels whose operands are worked out while they are loaded: 1x1
convolutions behind pointwise arithmetic, and their gradients.

A PROLOGUE has the form of an EPILOGUE: it gets the loaded tile in fp32 with its element offsets,
channels and mask, reads what else it needs of its own tuple, and returns the tile to multiply.
None is the empty one. Outside of the mask the operand is zero, whatever the prologue makes there.
"""

import triton
import triton.language as tl

from convdsl.kernels.product import add_product


@triton.jit(do_not_specialize=["seed"])
def rows_product(
    x_ptr,
    w_ptr,
    bias_ptr,
    y_ptr,
    x_aux,
    aux,
    seed,
    rows,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    W_DEPTH: tl.constexpr,
    W_COLUMN: tl.constexpr,
    X_STRIDE: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    EXCHANGED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[i,j] = EPILOGUE(bias[j] + sum over k of X_PROLOGUE(x)[i,k] * w[k,j]) for i < rows.

    x (rows, DEPTH), w[k,j] at k*W_DEPTH + j*W_COLUMN, bias (COLUMNS) or None, y (rows, COLUMNS);
    rows of x and y are X_STRIDE and Y_STRIDE elements apart, those of other tensors lie close.
    ``rows`` is < 2**31. BLOCK_K is for 16-bit elements; 32-bit ones take half, at least 16.
    """
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    HALVE: tl.constexpr = x_ptr.dtype.element_ty.primitive_bitwidth == 32 and BLOCK_K > 16
    STEP: tl.constexpr = BLOCK_K // 2 if HALVE else BLOCK_K
    # column tiles are neighbours, so that they find the same rows in the cache
    pid = tl.program_id(0)
    tile = (pid // TILES_N).to(tl.int64)
    row_mask = tile * BLOCK_M + tl.arange(0, BLOCK_M) < rows
    column = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    lanes = tl.arange(0, STEP)
    x_corner = tile * (BLOCK_M * X_STRIDE)
    x_inner = tl.arange(0, BLOCK_M)[:, None] * X_STRIDE + lanes[None, :]
    acc = tl.zeros((BLOCK_N, BLOCK_M) if EXCHANGED else (BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, DEPTH, STEP):
        k = start + lanes
        x_mask = row_mask[:, None] & (k < DEPTH)[None, :]
        a = tl.load(x_ptr + x_corner + (start + x_inner), mask=x_mask, other=0.0)
        if X_PROLOGUE is not None:
            inner = tl.arange(0, BLOCK_M)[:, None] * DEPTH + lanes[None, :]
            offsets = tile * (BLOCK_M * DEPTH) + (start + inner)
            made = X_PROLOGUE(a.to(tl.float32), offsets, k[None, :], x_mask, x_aux, seed)
            a = tl.where(x_mask, made, 0.0).to(x_ptr.dtype.element_ty)
        b = tl.load(
            w_ptr + k[:, None] * W_DEPTH + column[None, :] * W_COLUMN,
            mask=(k < DEPTH)[:, None] & (column < COLUMNS)[None, :],
            other=0.0,
        )
        acc = add_product(acc, a, b, EXCHANGED, PRECISION)

    if EXCHANGED:
        acc = tl.trans(acc)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=column < COLUMNS, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    # a large tile with much beside it does not fit the registers: its left half goes first; with
    # operands exchanged, statistics, which take two tensors, do fit
    MUCH: tl.constexpr = len(aux) > (2 if EXCHANGED else 0)
    HALVES: tl.constexpr = 2 if BLOCK_M * BLOCK_N == 128 * 128 and MUCH else 1
    WIDTH: tl.constexpr = BLOCK_N // HALVES
    if HALVES == 1:
        parts = (acc,)
    else:
        parts = tl.split(tl.permute(tl.reshape(acc, (BLOCK_M, 2, WIDTH)), (0, 2, 1)))
    for half in tl.static_range(HALVES):
        first = pid % TILES_N * BLOCK_N + half * WIDTH
        lane = first + tl.arange(0, WIDTH)
        inner = tl.arange(0, BLOCK_M)[:, None] * COLUMNS + tl.arange(0, WIDTH)[None, :]
        offsets = tile * (BLOCK_M * COLUMNS) + first + inner
        mask = row_mask[:, None] & (lane < COLUMNS)[None, :]
        y = EPILOGUE(parts[half], offsets, lane[None, :], mask, aux, seed)
        if Y_STRIDE != COLUMNS:
            inner = tl.arange(0, BLOCK_M)[:, None] * Y_STRIDE + tl.arange(0, WIDTH)[None, :]
            offsets = tile * (BLOCK_M * Y_STRIDE) + first + inner
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def rows_product_gradient(
    x_ptr,
    dy_ptr,
    partial_ptr,
    x_aux,
    dy_aux,
    seed,
    rows,
    C: tl.constexpr,
    K: tl.constexpr,
    X_STRIDE: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    DY_PROLOGUE: tl.constexpr,
    BIAS: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """dw[k,c] = sum over i of dy[i,k] * x[i,c], and db[k] = sum over i of dy[i,k] if BIAS, where x
    stands for X_PROLOGUE(x) and dy for DY_PROLOGUE(dy).

    x (rows, C), dy (rows, K), whose rows are X_STRIDE and DY_STRIDE elements apart. The rows are
    cut into SPLIT stretches, grid axis 1; stretch i writes its share to partial[i], fp32, holding
    dw as (K, C) followed by db (K). An empty stretch writes zeros. A program makes BLOCK_M of K by
    BLOCK_N of C; those of the first columns also sum dy. BLOCK_K is for 16-bit elements; 32-bit
    ones take 16.
    """
    TILES_N: tl.constexpr = (C + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if x_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K
    pid = tl.program_id(0)
    k = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    c = pid % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    lanes = tl.arange(0, STEP)
    steps = (rows + STEP - 1) // STEP
    share = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, steps)
    corner = first.to(tl.int64) * STEP
    x_inner = lanes[:, None] * X_STRIDE + c[None, :]
    dy_inner = lanes[:, None] * DY_STRIDE + k[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for step in range(first, last):
        row_mask = step * STEP + lanes < rows
        x_mask = row_mask[:, None] & (c < C)[None, :]
        dy_mask = row_mask[:, None] & (k < K)[None, :]
        dy = tl.load(dy_ptr + corner * DY_STRIDE + dy_inner, mask=dy_mask, other=0.0)
        if DY_PROLOGUE is not None:
            offsets = corner * K + (lanes[:, None] * K + k[None, :])
            made = DY_PROLOGUE(dy.to(tl.float32), offsets, k[None, :], dy_mask, dy_aux, seed)
            dy = tl.where(dy_mask, made, 0.0).to(dy_ptr.dtype.element_ty)
        x = tl.load(x_ptr + corner * X_STRIDE + x_inner, mask=x_mask, other=0.0)
        if X_PROLOGUE is not None:
            offsets = corner * C + (lanes[:, None] * C + c[None, :])
            made = X_PROLOGUE(x.to(tl.float32), offsets, c[None, :], x_mask, x_aux, seed)
            x = tl.where(x_mask, made, 0.0).to(x_ptr.dtype.element_ty)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision=PRECISION)
        if BIAS:
            total += tl.sum(dy.to(tl.float32), axis=0)
        corner += STEP

    SIZE: tl.constexpr = K * C + (K if BIAS else 0)
    partial = partial_ptr + tl.program_id(1).to(tl.int64) * SIZE
    tl.store(partial + (k * C)[:, None] + c[None, :], acc, mask=(k < K)[:, None] & (c < C)[None, :])
    if BIAS:
        if pid % TILES_N == 0:
            tl.store(partial + K * C + k, total, mask=k < K)
