"""Partial sums of a weight gradient added up in fixed order."""

import triton
import triton.language as tl


@triton.jit
def sum_partials(
    partial_ptr,
    dw_ptr,
    db_ptr,
    scale_ptr,
    factor_ptr,
    weights,
    biases,
    dw_first,
    db_first,
    width,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dw[w] = sum over i < SPLIT of partial[i, dw_first + w], w < weights; db likewise from
    db_first on.

    partial (SPLIT, width) fp32, dw (weights) fp32 in the same order, db (biases) fp32 or None, and
    then biases is 0. SPLIT is a power of two: the sum is one tree, the same in every run.
    All is multiplied by scale[0] * factor[0], fp32, unless scale is None.
    """
    size = weights + biases
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLIT).to(tl.int64)
    column = tl.where(element < weights, dw_first, db_first - weights) + element
    parts = tl.load(
        partial_ptr + split[:, None] * width + column[None, :],
        mask=(element < size)[None, :],
        other=0.0,
    )
    total = tl.sum(parts, axis=0)
    if scale_ptr is not None:
        total *= tl.load(scale_ptr) * tl.load(factor_ptr).to(tl.float32)
    tl.store(dw_ptr + element, total, mask=element < weights)
    if db_ptr is not None:
        tl.store(db_ptr + (element - weights), total, mask=(element >= weights) & (element < size))
