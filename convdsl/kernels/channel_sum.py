"""Sums over the rows of a tensor for every channel, in fixed order: partial sums, then one tree.

A row is a place of a map or sequence with its channels. The rows come in groups, each with sums of
its own: one group of all rows of the batch for the gradient of a number per channel, one per
sample for the gradient of a number per sample and channel.
"""

import triton
import triton.language as tl


@triton.jit
def channel_sum(
    x_ptr,
    factor_ptr,
    partial_ptr,
    rows,
    NEGATIVE: tl.constexpr,
    C: tl.constexpr,
    X_STRIDE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[g, s, c] = sum over the rows r of stretch s of x[g,r,c] * factor[g,r,c].

    x and factor are (groups, rows, C), partial (groups, SPLIT, C) fp32; rows of x are X_STRIDE
    elements apart. factor may be None for ones; with NEGATIVE it counts as 0 where it is positive.
    A program adds up one stretch, a SPLITth of the rows of a group, for COLS channels.
    """
    group = (tl.program_id(0) // SPLIT).to(tl.int64)
    length = tl.cdiv(rows, SPLIT)
    start = tl.program_id(0) % SPLIT * length
    stop = tl.minimum(start + length, rows)
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(start, stop, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        mask = (row < stop) & (c < C)
        place = group * rows + row
        x = tl.load(x_ptr + place * X_STRIDE + c, mask=mask, other=0.0).to(tl.float32)
        if factor_ptr is not None:
            factor = tl.load(factor_ptr + place * C + c, mask=mask, other=0.0).to(tl.float32)
            if NEGATIVE:
                x = tl.where(factor > 0.0, 0.0, x * factor)
            else:
                x = x * factor
        total += x
    place = tl.program_id(0).to(tl.int64) * C + c
    tl.store(partial_ptr + place, tl.sum(total, axis=0)[None, :], mask=c < C)


@triton.jit(do_not_specialize=["seed"])
def merge_channel_sums(
    partial_ptr,
    y_ptr,
    elements,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    C: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y[g, c] = EPILOGUE(sum over s < SPLIT of partial[g, s, c]).

    partial is (groups, SPLIT, C) fp32, y is (groups, C) with elements = groups * C. SPLIT is a
    power of two: the sum is one tree, the same in every run.
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    first = offsets // C * (SPLIT * C) + offsets % C
    parts = tl.load(
        partial_ptr + first[None, :] + tl.arange(0, SPLIT)[:, None] * C,
        mask=mask[None, :],
        other=0.0,
    )
    y = EPILOGUE(tl.sum(parts, axis=0), offsets, offsets, mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)
