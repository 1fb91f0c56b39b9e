"""Partial sums of a weight gradient added up in fixed order and put into torch's layout."""

import triton
import triton.language as tl


@triton.jit
def sum_partials(
    partial_ptr,
    dw_ptr,
    db_ptr,
    scale_ptr,
    factor_ptr,
    filters,
    channels,
    taps,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dw[k,c,t] = sum over i < SPLIT of partial[i, k, t, c]; db[k] likewise from what follows.

    With K = filters, C = channels, T = taps: partial (SPLIT, K*T*C [+ K]) fp32, dw (K,C,T) fp32,
    db (K) fp32 or None, and then partial holds no bias. SPLIT is a power of two: the sum is one
    tree, the same in every run. All is multiplied by scale[0] * factor[0], fp32, unless scale is
    None.
    """
    weights = filters * taps * channels
    size = weights
    if db_ptr is not None:
        size += filters
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLIT).to(tl.int64)
    parts = tl.load(
        partial_ptr + split[:, None] * size + element[None, :],
        mask=(element < size)[None, :],
        other=0.0,
    )
    total = tl.sum(parts, axis=0)
    if scale_ptr is not None:
        total *= tl.load(scale_ptr) * tl.load(factor_ptr).to(tl.float32)
    k = element // (taps * channels)
    t = element // channels % taps
    c = element % channels
    tl.store(dw_ptr + (k * channels + c) * taps + t, total, mask=element < weights)
    if db_ptr is not None:
        tl.store(db_ptr + (element - weights), total, mask=(element >= weights) & (element < size))
