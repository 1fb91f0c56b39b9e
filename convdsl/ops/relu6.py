"""RELU6."""

from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("RELU6")
class Relu6(Pointwise):
    """min(max(0, x), 6), with NaN passed through (Krizhevsky, 2010; MobileNet)."""

    forward = "tl.where({x} <= 0.0, 0.0, tl.where({x} >= 6.0, 6.0, {x}))"
    derivative = "tl.where(({y} <= 0.0) | ({y} >= 6.0), 0.0, {dy})"
    torch = "F.relu6({x})"
    examples = (("6@5x7", "RELU6"), ("10", "RELU6"))
