"""Softmax over the channels of a vector or of every pixel, and its gradient.

A program works on ROWS rows, COLS of their C channels at a time. What a second pass over a row
reads again is still in the cache.
"""

import triton
import triton.language as tl


@triton.jit
def load_scores(x_ptr, row, c, rows, C: tl.constexpr):
    """x[row, c] in float32; beyond the channels -inf, which adds nothing to a sum of powers."""
    # rows beyond the last are 0, so that no arithmetic on them is invalid
    other = tl.where(c < C, 0.0, float("-inf"))
    return tl.load(x_ptr + row * C + c, mask=(row < rows) & (c < C), other=other).to(tl.float32)


@triton.jit
def row_powers(x_ptr, row, rows, C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """(m, s) of every row: m = max of x, s = sum of exp(x - m) (Milakov and Gimelshein, 2018)."""
    m = tl.full((ROWS,), float("-inf"), tl.float32)
    s = tl.zeros((ROWS,), tl.float32)
    for start in range(0, C, COLS):
        x = load_scores(x_ptr, row, start + tl.arange(0, COLS)[None, :], rows, C)
        top = tl.maximum(m, tl.max(x, axis=1))
        # as long as all is -inf, any finite shift gives the powers 0
        shift = tl.where(top == float("-inf"), 0.0, top)
        s = s * tl.exp(m - shift) + tl.sum(tl.exp(x - shift[:, None]), axis=1)
        m = top
    return m, s


@triton.jit(do_not_specialize=["seed"])
def softmax(
    x_ptr,
    y_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r,c] = EPILOGUE(exp(x[r,c] - m) / sum over k of exp(x[r,k] - m)), m = max of row r.

    x and y are (rows, C).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    m, s = row_powers(x_ptr, row, rows, C, ROWS, COLS)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        mask = (row < rows) & (c < C)
        offsets = row * C + c
        y = tl.exp(load_scores(x_ptr, row, c, rows, C) - m[:, None]) / s[:, None]
        y = EPILOGUE(y, offsets, c, mask, aux, seed)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def softmax_gradient(
    dy_ptr,
    y_ptr,
    dx_ptr,
    rows,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx[r,c] = EPILOGUE(y[r,c] * (dy[r,c] - sum over k of dy[r,k] * y[r,k])).

    dy, y and dx are (rows, C).
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        mask = (row < rows) & (c < C)
        dy = tl.load(dy_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(dy * y, axis=1)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        mask = (row < rows) & (c < C)
        offsets = row * C + c
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        dx = EPILOGUE(y * (dy - total[:, None]), offsets, c, mask, aux, seed)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
