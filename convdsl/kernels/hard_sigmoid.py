"""The piecewise linear sigmoid, as a function for epilogues."""

import triton
import triton.language as tl


@triton.jit
def hard_sigmoid(x):
    """min(max(0, x + 3), 6) / 6, and NaN for NaN."""
    return tl.where(x <= -3.0, 0.0, tl.where(x >= 3.0, 6.0, x + 3.0)) / 6.0
