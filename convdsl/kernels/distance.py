"""Distance of the rows of two tensors in the 1- or 2-norm, and its gradients.

A program works on ROWS rows, COLS of their C elements at a time. What a second pass over a row
reads again is still in the cache.
"""

import triton
import triton.language as tl


@triton.jit
def difference(a_ptr, b_ptr, row, c, rows, C: tl.constexpr, EPS: tl.constexpr):
    """a[row, c] - b[row, c] + EPS in float32; beyond the rows and columns 0."""
    mask = (row < rows) & (c < C)
    a = tl.load(a_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
    return tl.where(mask, a - b + EPS, 0.0)


@triton.jit
def row_norm(
    a_ptr,
    b_ptr,
    row,
    rows,
    C: tl.constexpr,
    EPS: tl.constexpr,
    POWER: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """(sum over c of |a - b + EPS| ** POWER) ** (1 / POWER) of every row."""
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        d = difference(a_ptr, b_ptr, row, c, rows, C, EPS)
        total += tl.sum(d * d if POWER == 2 else tl.abs(d), axis=1)
    return tl.sqrt(total) if POWER == 2 else total


@triton.jit(do_not_specialize=["seed"])
def distance(
    a_ptr,
    b_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    EPS: tl.constexpr,
    POWER: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r] = EPILOGUE((sum over c of |a[r,c] - b[r,c] + EPS| ** POWER) ** (1 / POWER)).

    a and b are (rows, C), y is (rows, 1). POWER is 1 or 2.
    """
    offsets = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask = offsets < rows
    y = row_norm(a_ptr, b_ptr, offsets[:, None], rows, C, EPS, POWER, ROWS, COLS)
    y = EPILOGUE(y, offsets, offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def distance_gradient(
    dy_ptr,
    a_ptr,
    b_ptr,
    da_ptr,
    db_ptr,
    rows,
    C: tl.constexpr,
    EPS: tl.constexpr,
    POWER: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """da = dy[r] * d / y[r] with d = a - b + EPS, 0 where y[r] is 0; db = -da.

    If POWER is 1, the sign of d stands for d / y[r]. dy is (rows, 1), a, b, da and db are
    (rows, C); da or db may be None. The distance y is worked out again: as it was stored, in 16
    bits, a small one would be lost.
    """
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    dy = tl.load(dy_ptr + r, mask=r < rows, other=0.0).to(tl.float32)[:, None]
    if POWER == 2:
        y = row_norm(a_ptr, b_ptr, row, rows, C, EPS, POWER, ROWS, COLS)[:, None]
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        d = difference(a_ptr, b_ptr, row, c, rows, C, EPS)
        if POWER == 2:
            slope = tl.where(y == 0.0, 0.0, d / tl.where(y == 0.0, 1.0, y))
        else:
            slope = tl.where(d > 0.0, 1.0, 0.0) - tl.where(d < 0.0, 1.0, 0.0)
        da = dy * slope
        mask = (row < rows) & (c < C)
        if da_ptr is not None:
            tl.store(da_ptr + row * C + c, da.to(da_ptr.dtype.element_ty), mask=mask)
        if db_ptr is not None:
            tl.store(db_ptr + row * C + c, (-da).to(db_ptr.dtype.element_ty), mask=mask)
