"""Products of rows of channels by programs that stay: each makes tile after tile.

Operands come as boxes of tensor descriptors, and the loop over a tile's depth and the one over
tiles are one: the next tile's operands are on their way while this one is stored.
"""

import triton
import triton.language as tl

from convdsl.kernels.product import add_product


@triton.jit(do_not_specialize=["seed"])
def rows_persistent(
    x_box,
    w_box,
    bias_ptr,
    y_ptr,
    x_aux,
    aux,
    seed,
    rows,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TURNED: tl.constexpr,
    Y_STRIDE: tl.constexpr,
    X_PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    EXCHANGED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[i,j] = EPILOGUE(bias[j] + sum over k of X_PROLOGUE(x)[i,k] * w[j,k]) for i < rows; w[k,j]
    if TURNED.

    x (rows, DEPTH) in boxes (BLOCK_M, STEP), w (COLUMNS, DEPTH) in boxes (BLOCK_N, STEP), or
    (DEPTH, COLUMNS) in (STEP, BLOCK_N); bias (COLUMNS) or None, y (rows, COLUMNS) with its rows
    Y_STRIDE elements apart, ``rows`` < 2**31. STEP is BLOCK_K, half of it for 32-bit elements, and
    divides DEPTH. PROLOGUE is that of `rows_product`. EPILOGUE finds the number of its tile of rows
    as the last of ``aux``: which program makes a tile changes nothing in the result.
    """
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = x_box.block_shape[1]
    tiles = (rows + BLOCK_M - 1) // BLOCK_M * TILES_N
    # column tiles are neighbours, so that they find the same rows in the cache
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        band = tile // TILES_N
        first = tile % TILES_N * BLOCK_N
        row_mask = band * BLOCK_M + tl.arange(0, BLOCK_M) < rows
        acc = tl.zeros((BLOCK_N, BLOCK_M) if EXCHANGED else (BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, DEPTH, STEP):
            x = x_box.load([band * BLOCK_M, k])
            if X_PROLOGUE is not None:
                lane = k + tl.arange(0, STEP)
                inner = tl.arange(0, BLOCK_M)[:, None] * DEPTH + lane[None, :]
                offsets = band.to(tl.int64) * (BLOCK_M * DEPTH) + inner
                mask = row_mask[:, None] & (lane < DEPTH)[None, :]
                made = X_PROLOGUE(x.to(tl.float32), offsets, lane[None, :], mask, x_aux, seed)
                x = tl.where(mask, made, 0.0).to(x.dtype)
            if TURNED:
                w = w_box.load([k, first])
            else:
                w = tl.trans(w_box.load([first, k]))
            acc = add_product(acc, x, w, EXCHANGED, PRECISION)
        column = first + tl.arange(0, BLOCK_N)
        if EXCHANGED:
            acc = tl.trans(acc)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + column, mask=column < COLUMNS, other=0.0)
            acc += bias.to(tl.float32)[None, :]
        inner = tl.arange(0, BLOCK_M)[:, None] * COLUMNS + column[None, :]
        offsets = band.to(tl.int64) * (BLOCK_M * COLUMNS) + inner
        mask = row_mask[:, None] & (column < COLUMNS)[None, :]
        behind = aux + (band,)  # noqa: RUF005 (Triton has no starred tuples)
        y = EPILOGUE(acc, offsets, column[None, :], mask, behind, seed)
        if Y_STRIDE != COLUMNS:
            inner = tl.arange(0, BLOCK_M)[:, None] * Y_STRIDE + column[None, :]
            offsets = band.to(tl.int64) * (BLOCK_M * Y_STRIDE) + inner
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
