"""Cross-entropy of the softmax of logits against class labels, with its gradient, in one kernel.

The mean is taken in a fixed order and without atomics, so equal inputs give equal bits.
"""

import triton
import triton.language as tl

from convdsl.kernels.softmax import load_scores, row_powers


@triton.jit
def cross_entropy(
    x_ptr,
    labels_ptr,
    losses_ptr,
    dx_ptr,
    rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """losses[r] = -log softmax(x)[r,t] and dx[r,c] = (softmax(x)[r,c] - [c = t]) / rows.

    x and dx are (rows, C) logits and their gradient, labels int64 (rows,) with t = labels[r] in
    0 .. C-1, losses float32 (rows,). A program works on COLS of the channels at a time.
    """
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    label = tl.load(labels_ptr + r, mask=r < rows, other=0)
    m, s = row_powers(x_ptr, row, rows, C, ROWS, COLS)
    wanted = tl.load(x_ptr + r * C + label, mask=r < rows, other=0.0).to(tl.float32)
    # the difference first: log(s) would be lost beside a large m
    tl.store(losses_ptr + r, (m - wanted) + tl.log(s), mask=r < rows)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        p = tl.exp(load_scores(x_ptr, row, c, rows, C) - m[:, None]) / s[:, None]
        dx = (p - tl.where(c == label[:, None], 1.0, 0.0)) / rows
        mask = (row < rows) & (c < C)
        tl.store(dx_ptr + row * C + c, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def mean(x_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    """y[0] = sum of the float32 x[0 .. elements-1] / elements, by one program; NaN for none."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, elements, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + offsets, mask=offsets < elements, other=0.0)
    tl.store(y_ptr, tl.sum(total, axis=0) / elements)
