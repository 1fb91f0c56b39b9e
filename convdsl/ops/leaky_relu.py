"""LEAKY_RELU."""

from convdsl.ir.arguments import field, number
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("LEAKY_RELU")
class LeakyRelu(Pointwise):
    """x where x > 0, else slope * x (Maas, Hannun and Ng, 2013)."""

    slope: float = field(0.01, convert=number(least=0.0), doc="factor of negative inputs, >= 0")
    forward = "tl.where({x} > 0.0, {x}, {x} * {slope})"
    # x > 0 exactly where y > 0, since the slope is not negative
    derivative = "tl.where({y} > 0.0, {dy}, {dy} * {slope})"
    condition = "{y} > 0.0"
    torch = "F.leaky_relu({x}, {slope})"
    aliases = ("LRELU",)
    examples = (
        ("6@5x7", "LEAKY_RELU"),
        ("10", "LEAKY_RELU(slope=0.2)"),
        ("8@3x5", "LEAKY_RELU(slope=0.2)"),
    )
