"""log(1 + exp(x)), its tanh and that tanh's use as a gate, as functions for epilogues.

All are written in exp(-|x|), which cannot overflow, and without differences of nearly equal
numbers.
"""

import triton
import triton.language as tl


@triton.jit
def log1p(x):
    """log(1 + x) for x >= 0: the error that rounds u = 1 + x is divided out (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))."""
    return tl.where(x > 0.0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def exponential_ratio(x):
    """(a, b) with a / b = exp(x) and max(a, b) = 1, so sigmoid(x) = a / (a + b)."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0), tl.where(x < 0.0, 1.0, small)


@triton.jit
def tanh_softplus(x):
    """tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) with e = exp(x) = a / b."""
    a, b = exponential_ratio(x)
    p = a * (a + 2.0 * b)
    return p / (p + 2.0 * b * b)


@triton.jit
def tanh_softplus_gate_slope(x):
    """Derivative of x * t(x), t = tanh(log(1 + exp(x))): t + x * sigmoid(x) * (1 - t^2)."""
    a, b = exponential_ratio(x)
    p = a * (a + 2.0 * b)
    q = p + 2.0 * b * b
    # t = p / q and 1 - t^2 = (2b (a + b) / q)^2
    return p / q + x * (4.0 * a * b * b * (a + b)) / (q * q)
