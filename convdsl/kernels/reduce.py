"""Partial sums of a weight gradient added up in fixed order."""

import triton
import triton.language as tl


@triton.jit
def sum_partials(
    partial_ptr,
    dw_ptr,
    db_ptr,
    weights,
    biases,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dw[w] = sum over i < SPLIT of partial[i, w], w < weights; db likewise from what follows.

    partial (SPLIT, weights + biases) fp32, dw (weights) fp32 in the same order, db (biases) fp32 or
    None, and then biases is 0. SPLIT is a power of two: the sum is one tree, the same in every run.
    """
    size = weights + biases
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLIT).to(tl.int64)
    parts = tl.load(
        partial_ptr + split[:, None] * size + element[None, :],
        mask=(element < size)[None, :],
        other=0.0,
    )
    total = tl.sum(parts, axis=0)
    tl.store(dw_ptr + element, total, mask=element < weights)
    if db_ptr is not None:
        tl.store(db_ptr + (element - weights), total, mask=(element >= weights) & (element < size))
