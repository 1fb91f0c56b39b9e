"""SELU."""

from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("SELU")
class Selu(Pointwise):
    """s*x where x > 0, else s*a*(exp(x) - 1), s = 1.0507, a = 1.6733 (Klambauer et al., 2017)."""

    # s, and s*a, to the digits of torch
    forward = "tl.where({x} > 0.0, {x} * 1.0507009873554805, expm1({x}) * 1.7580993408473766)"
    derivative = "{dy} * tl.where({x} > 0.0, 1.0507009873554805, tl.exp({x}) * 1.7580993408473766)"
    torch = "F.selu({x})"
    helpers = (Nest("exponential", "expm1"),)
    examples = (("6@5x7", "SELU"), ("10", "SELU"))
