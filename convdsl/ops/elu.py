"""ELU."""

from convdsl.ir.arguments import field, number
from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("ELU")
class Elu(Pointwise):
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert, Unterthiner and Hochreiter, 2015)."""

    alpha: float = field(1.0, convert=number(least=0.0), doc="minus the limit for x -> -inf, >= 0")
    forward = "tl.where({x} > 0.0, {x}, expm1({x}) * {alpha})"
    # of x, not y + alpha, which cancels where y is near -alpha: in bfloat16 from x = -5 on
    derivative = "tl.where({x} > 0.0, {dy}, {dy} * {alpha} * tl.exp({x}))"
    torch = "F.elu({x}, {alpha})"
    helpers = (Nest("exponential", "expm1"),)
    examples = (("6@5x7", "ELU"), ("10", "ELU(alpha=0.5)"))
