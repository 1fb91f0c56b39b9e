"""Matrix product with strides, bias, epilogue and row sums: every pass of a dense layer."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["seed"])
def matmul(
    a_ptr,
    b_ptr,
    bias_ptr,
    y_ptr,
    row_sum_ptr,
    aux,
    seed,
    rows,
    depth,
    COLUMNS: tl.constexpr,
    A_ROW: tl.constexpr,
    A_DEPTH: tl.constexpr,
    B_DEPTH: tl.constexpr,
    B_COLUMN: tl.constexpr,
    EPILOGUE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """y[i,j] = EPILOGUE(bias[j] + sum over k < depth of a[i,k] * b[k,j]) for i < rows, j < COLUMNS.

    a[i,k] lies at i*A_ROW + k*A_DEPTH, b[k,j] at k*B_DEPTH + j*B_COLUMN, y is (rows, COLUMNS).
    bias (COLUMNS) may be None. row_sum (rows), unless None, gets the sum of a[i,k] over k, from
    the programs of the first column tile. BLOCK_K is for 16-bit elements; 32-bit ones take 16,
    which leaves registers for the accumulator.
    """
    TILES_N: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    STEP: tl.constexpr = 16 if a_ptr.dtype.element_ty.primitive_bitwidth == 32 else BLOCK_K
    pid = tl.program_id(0)
    tile_n = pid % TILES_N
    row = pid // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = row < rows
    column_mask = column < COLUMNS
    lanes = tl.arange(0, STEP)
    # one moving 64-bit pointer to each operand, with 64-bit offsets of its rows or columns
    a_offsets = (row.to(tl.int64) * A_ROW)[:, None] + (lanes * A_DEPTH)[None, :]
    b_offsets = (lanes * B_DEPTH)[:, None] + (column.to(tl.int64) * B_COLUMN)[None, :]

    if row_sum_ptr is not None:
        # a loop of its own, which leaves a in the cache and the product's loop lean
        if tile_n == 0:
            total = tl.zeros((BLOCK_M, STEP), dtype=tl.float32)
            a_start = a_ptr
            for k_start in range(0, depth, STEP):
                a_mask = row_mask[:, None] & (k_start + lanes < depth)[None, :]
                a = tl.load(a_start + a_offsets, mask=a_mask, other=0.0)
                total += a.to(tl.float32)
                a_start += STEP * A_DEPTH
            tl.store(row_sum_ptr + row, tl.sum(total, axis=1), mask=row_mask)

    a_start = a_ptr
    b_start = b_ptr
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k_start in range(0, depth, STEP):
        k_mask = k_start + lanes < depth
        a_mask = row_mask[:, None] & k_mask[None, :]
        b_mask = k_mask[:, None] & column_mask[None, :]
        a = tl.load(a_start + a_offsets, mask=a_mask, other=0.0)
        b = tl.load(b_start + b_offsets, mask=b_mask, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
        a_start += STEP * A_DEPTH
        b_start += STEP * B_DEPTH

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + column, mask=column_mask, other=0.0)
        acc += bias.to(tl.float32)[None, :]
    offsets = row.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    mask = row_mask[:, None] & column_mask[None, :]
    acc = EPILOGUE(acc, offsets, column[None, :], mask, aux, seed)
    tl.store(y_ptr + offsets, acc.to(y_ptr.dtype.element_ty), mask=mask)
