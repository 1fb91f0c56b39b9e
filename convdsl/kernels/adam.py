"""Adam and AdamW on all parameters of a group in one launch."""

import triton
import triton.language as tl

from convdsl.kernels.exponential import expm1
from convdsl.kernels.tensor_list import address, part, store_half


@triton.jit
def adam(
    rows_ptr,
    table_ptr,
    numbers_ptr,
    DECOUPLED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One step of ``torch.optim.Adam`` (Kingma and Ba, 2015), or AdamW if DECOUPLED.

    p *= 1 - rate decay if DECOUPLED (Loshchilov and Hutter, 2019), else g += decay p, with -g for g
    to MAXIMIZE; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2; with AMSGRAD
    (Reddi et al., 2018) w = max(w, v) stands for v in
    p -= rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps).

    Columns of the table, see `tensor_list`: the addresses of p, g, m, v, w and of t, counted from
    1, one number; of copies of p in float16 and bfloat16, or 0. w need not exist without AMSGRAD.
    numbers, fp32: rate, decay, eps, 1 - beta1, 1 - beta2, beta1, beta2, log beta1, log beta2.
    """
    row, offsets, mask, full = part(rows_ptr, table_ptr, 10, BLOCK)
    if full:
        _adam_step(row, offsets, None, numbers_ptr, DECOUPLED, AMSGRAD, MAXIMIZE, ALIGNED)
    else:
        _adam_step(row, offsets, mask, numbers_ptr, DECOUPLED, AMSGRAD, MAXIMIZE, ALIGNED)


@triton.jit
def _adam_step(
    row,
    offsets,
    mask,
    numbers_ptr,
    DECOUPLED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """`adam` on some elements of the row."""
    p_ptr = address(row + 2, ALIGNED) + offsets
    m_ptr = address(row + 4, ALIGNED) + offsets
    v_ptr = address(row + 5, ALIGNED) + offsets
    p = tl.load(p_ptr, mask=mask)
    g = tl.load(address(row + 3, ALIGNED) + offsets, mask=mask)
    if MAXIMIZE:
        g = -g
    rate, decay = tl.load(numbers_ptr), tl.load(numbers_ptr + 1)
    if DECOUPLED:
        p = p * (1.0 - rate * decay)
    else:
        # without decay, infinite weights add no NaN
        g = tl.where(decay != 0.0, g + decay * p, g)
    m = tl.load(numbers_ptr + 5) * tl.load(m_ptr, mask=mask) + tl.load(numbers_ptr + 3) * g
    v = tl.load(numbers_ptr + 6) * tl.load(v_ptr, mask=mask) + tl.load(numbers_ptr + 4) * (g * g)
    tl.store(m_ptr, m, mask=mask)
    tl.store(v_ptr, v, mask=mask)
    if AMSGRAD:
        w_ptr = address(row + 6, ALIGNED) + offsets
        largest = tl.load(w_ptr, mask=mask)
        v = tl.maximum(largest, v, propagate_nan=tl.PropagateNan.ALL)
        tl.store(w_ptr, v, mask=mask)
    t = tl.load(address(row + 7, False))
    # 1 - beta^t as a difference would lose most of its digits in the first steps
    rate = rate / -expm1(t * tl.load(numbers_ptr + 7))
    scale = tl.sqrt_rn(-expm1(t * tl.load(numbers_ptr + 8)))
    divisor = tl.sqrt_rn(v) / scale + tl.load(numbers_ptr + 2)
    p -= rate * (m / divisor)
    tl.store(p_ptr, p, mask=mask)
    store_half(row + 8, offsets, p, mask, ALIGNED)
