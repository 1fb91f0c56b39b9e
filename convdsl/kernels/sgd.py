"""Stochastic gradient descent with momentum on all parameters of a group in one launch."""

import triton
import triton.language as tl

from convdsl.kernels.tensor_list import address, part, store_half


@triton.jit
def sgd(
    rows_ptr,
    table_ptr,
    numbers_ptr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One step of ``torch.optim.SGD`` (Sutskever et al., 2013, with torch's placing of the rate).

    d = g + decay p, with -g for g to MAXIMIZE; b = momentum b + (1 - dampening) d, or d at a
    tensor's first step; p -= rate (d + momentum b if NESTEROV, b if MOMENTUM, d otherwise).

    Columns of the table, see `tensor_list`: the addresses of p, g and b; 1 at the first step; the
    addresses of copies of p in float16 and bfloat16, or 0. b need not exist without MOMENTUM.
    numbers, fp32: rate, decay, momentum, 1 - dampening.
    """
    row, offsets, mask, full = part(rows_ptr, table_ptr, 8, BLOCK)
    if full:
        _sgd_step(row, offsets, None, numbers_ptr, MOMENTUM, NESTEROV, MAXIMIZE, ALIGNED)
    else:
        _sgd_step(row, offsets, mask, numbers_ptr, MOMENTUM, NESTEROV, MAXIMIZE, ALIGNED)


@triton.jit
def _sgd_step(
    row,
    offsets,
    mask,
    numbers_ptr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """`sgd` on some elements of the row."""
    p_ptr = address(row + 2, ALIGNED) + offsets
    p = tl.load(p_ptr, mask=mask)
    step = tl.load(address(row + 3, ALIGNED) + offsets, mask=mask)
    if MAXIMIZE:
        step = -step
    decay = tl.load(numbers_ptr + 1)
    # without decay, infinite weights add no NaN
    step = tl.where(decay != 0.0, step + decay * p, step)
    if MOMENTUM:
        b_ptr = address(row + 4, ALIGNED) + offsets
        momentum = tl.load(numbers_ptr + 2)
        b = momentum * tl.load(b_ptr, mask=mask) + tl.load(numbers_ptr + 3) * step
        b = tl.where(tl.load(row + 5) != 0, step, b)
        tl.store(b_ptr, b, mask=mask)
        step = step + momentum * b if NESTEROV else b
    p -= tl.load(numbers_ptr) * step
    tl.store(p_ptr, p, mask=mask)
    store_half(row + 6, offsets, p, mask, ALIGNED)
