"""Partial sums of a weight gradient added up in fixed order and put into torch's layout."""

import triton
import triton.language as tl


@triton.jit
def sum_partials(
    partial_ptr,
    dw_ptr,
    db_ptr,
    K: tl.constexpr,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dw[k,c,t] = sum over i < SPLIT of partial[i, k, t, c]; db[k] likewise from what follows.

    partial (SPLIT, K*TAPS*C [+ K]) fp32, dw (K,C,TAPS) fp32, db (K) fp32 or None, and then partial
    holds no bias. SPLIT is a power of two: the sum is one tree, the same in every run.
    """
    WEIGHTS: tl.constexpr = K * TAPS * C
    SIZE: tl.constexpr = WEIGHTS if db_ptr is None else WEIGHTS + K
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLIT).to(tl.int64)
    parts = tl.load(
        partial_ptr + split[:, None] * SIZE + element[None, :],
        mask=(element < SIZE)[None, :],
        other=0.0,
    )
    total = tl.sum(parts, axis=0)
    k = element // (TAPS * C)
    t = element // C % TAPS
    c = element % C
    tl.store(dw_ptr + (k * C + c) * TAPS + t, total, mask=element < WEIGHTS)
    if db_ptr is not None:
        tl.store(db_ptr + (element - WEIGHTS), total, mask=(element >= WEIGHTS) & (element < SIZE))
