"""exp(x) - 1 and tanh to full float32 accuracy, near 0 too, as functions for epilogues."""

import triton
import triton.language as tl


@triton.jit
def expm1(x):
    """exp(x) - 1: the Taylor polynomial below ln(2)/2, where the difference would cancel."""
    series = 1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0))
    series = 0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * series))
    return tl.where(tl.abs(x) < 0.35, x + x * x * series, tl.exp(x) - 1.0)


@triton.jit
def tanh(x):
    """sign(x) * (1 - exp(-2|x|)) / (1 + exp(-2|x|)), which cannot overflow.

    Below 0.175, where the difference would cancel, the Taylor polynomial.
    """
    less = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - less) / (1.0 + less)
    square = x * x
    series = square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0)))
    return tl.where(tl.abs(x) < 0.175, x + x * series, tl.where(x < 0.0, -size, size))
