"""The distribution function of the normal distribution and its use as a gate, for epilogues.

APPROXIMATE is "none" for the function itself, which keeps its digits in both tails, or "tanh" for
(1 + tanh(u)) / 2 with u = sqrt(2/pi) * (x + 0.044715 x^3) (Hendrycks and Gimpel, 2016).
"""

import triton
import triton.language as tl


@triton.jit
def normal_tail(x):
    """P(X < -|x|) = exp(-x^2 / 2) * t * Q(t), t = 1 / (1 + 0.32 |x|).

    The form is that of Abramowitz and Stegun 26.2.17. Q is the polynomial of degree 9 that
    minimises the largest relative error over all x, which is 3.2e-8.
    """
    t = 1.0 / (1.0 + 0.32 * tl.abs(x))
    q = 0.0954077207 + t * -0.0210782719
    q = -0.009378067 + t * (0.065328886 + t * (-0.14670832 + t * q))
    q = 0.114622361 + t * (0.0878290712 + t * (0.0586541291 + t * q))
    return tl.exp(-0.5 * x * x) * t * (0.127661529 + t * (0.127660947 + t * q))


@triton.jit
def within_12(x):
    """x, but at most 12 from 0, where the approximation is 0 or 1 and no power overflows yet."""
    return tl.where(x > 12.0, 12.0, tl.where(x < -12.0, -12.0, x))


@triton.jit
def normal_cdf(x, APPROXIMATE: tl.constexpr):
    """P(X < x)."""
    if APPROXIMATE == "tanh":
        near = within_12(x)
        p = tl.sigmoid(near * (1.5957691216 + 0.0713548163 * near * near))
    else:
        tail = normal_tail(x)
        p = tl.where(x < 0.0, tail, 1.0 - tail)
    return p


@triton.jit
def normal_gate_slope(x, APPROXIMATE: tl.constexpr):
    """Derivative of x * P(X < x): P(X < x) + x * exp(-x^2 / 2) / sqrt(2 pi)."""
    if APPROXIMATE == "tanh":
        near = within_12(x)
        p = normal_cdf(near, APPROXIMATE)
        # the derivative of sigmoid(2u) is sigmoid(2u) * sigmoid(-2u) * 2u'
        slope = p + p * normal_cdf(-near, APPROXIMATE) * near * (
            1.5957691216 + 0.2140644488 * near * near
        )
    else:
        slope = normal_cdf(x, APPROXIMATE) + x * 0.3989422804 * tl.exp(-0.5 * x * x)
    return slope
