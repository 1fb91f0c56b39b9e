"""Cross-entropy of the softmax of logits against class labels, with its gradient, in one kernel."""

import triton
import triton.language as tl

from convdsl.kernels.softmax import load_scores, row_powers


@triton.jit
def cross_entropy(
    x_ptr,
    labels_ptr,
    class_weights_ptr,
    sums_ptr,
    weights_ptr,
    dx_ptr,
    rows,
    C: tl.constexpr,
    IGNORE: tl.constexpr,
    SMOOTH: tl.constexpr,
    TOTAL: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Loss and gradient of every row r with label t; v is w[t], or 0 if t = IGNORE; e is SMOOTH.

    loss = (1-e) v (-log p[t]) + e/C sum over c of w[c] (-log p[c]) with p = softmax(x[r]),
    dx[r,c] = ((1-e) v + e/C TOTAL) p[c] - (1-e) v [c = t] - e/C w[c]; if t = IGNORE both are 0.

    x and dx are (rows, C), labels int64 (rows,) in 0 .. C-1 or IGNORE, of another the loss is NaN.
    w = class_weights, fp32 (C,), or 1 if None; TOTAL is their sum. sums and weights, fp32, one a
    program: its rows' losses and their v, added up. A program works on COLS of the channels at a
    time.
    """
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    label = tl.load(labels_ptr + r, mask=r < rows, other=IGNORE)
    counts = (r < rows) & (label != IGNORE)
    # whatever number says "ignored", nothing is read there
    label = tl.where(counts, label, 0)
    known = (label >= 0) & (label < C)
    weight = tl.where(counts, 1.0, 0.0)
    spread = weight * SMOOTH
    if class_weights_ptr is not None:
        weight = tl.load(class_weights_ptr + label, mask=counts & known, other=0.0).to(tl.float32)
    m, s = row_powers(x_ptr, row, rows, C, ROWS, COLS)
    wanted = tl.load(x_ptr + r * C + label, mask=counts & known, other=0.0).to(tl.float32)
    wanted = tl.where(known, wanted, float("nan"))
    pull = weight * (1.0 - SMOOTH)
    # the difference first: log(s) would be lost beside a large m
    loss = pull * ((m - wanted) + tl.log(s))
    push = pull + spread * (TOTAL / C)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        mask = (row < rows) & (c < C)
        x = load_scores(x_ptr, row, c, rows, C)
        dx = push[:, None] * (tl.exp(x - m[:, None]) / s[:, None])
        dx -= tl.where(c == label[:, None], pull[:, None], 0.0)
        if SMOOTH > 0.0:
            share = spread[:, None] / C
            if class_weights_ptr is not None:
                share *= tl.load(class_weights_ptr + c, mask=c < C, other=0.0).to(tl.float32)
            dx -= share
            each = share * ((m[:, None] - x) + tl.log(s)[:, None])
            loss += tl.sum(tl.where(mask, each, 0.0), axis=1)
        tl.store(dx_ptr + row * C + c, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    # a row that is ignored adds nothing, not even what is no number
    loss = tl.where(counts, loss, 0.0)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(loss, axis=0))
    tl.store(weights_ptr + tl.program_id(0), tl.sum(weight, axis=0))
