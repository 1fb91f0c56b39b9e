"""SWISH."""

from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("SWISH")
class Swish(Pointwise):
    """x * sigmoid(x), also called SiLU (Ramachandran, Zoph and Le, 2017)."""

    forward = "{x} * tl.sigmoid({x})"
    # s + x*s*(1 - s); 1 - s(x) instead of s(-x) is one exponential, and close enough beside the 1
    derivative = "{dy} * (tl.sigmoid({x}) * (1.0 + {x} * (1.0 - tl.sigmoid({x}))))"
    torch = "F.silu({x})"
    aliases = ("SILU",)
    examples = (("6@5x7", "SWISH"), ("10", "SWISH"))
