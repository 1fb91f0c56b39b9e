"""SWISH."""

from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("SWISH")
class Swish(Pointwise):
    """x * sigmoid(x), also called SiLU (Ramachandran, Zoph and Le, 2017)."""

    forward = "{x} * tl.sigmoid({x})"
    # s + x*s*(1 - s), with 1 - s(x) = s(-x) free of cancellation
    derivative = "{dy} * tl.sigmoid({x}) * (1.0 + {x} * tl.sigmoid(-{x}))"
    torch = "F.silu({x})"
    aliases = ("SILU",)
    examples = (("6@5x7", "SWISH"), ("10", "SWISH"))
