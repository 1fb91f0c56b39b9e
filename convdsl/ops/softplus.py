"""SOFTPLUS."""

from convdsl.ir.arguments import field, number
from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("SOFTPLUS")
class Softplus(Pointwise):
    """log(1 + exp(beta * x)) / beta, a smooth max(0, x) (Dugas et al., 2001)."""

    beta: float = field(1.0, convert=number(1e-6, 1e6), doc="sharpness of the bend")
    threshold: float = field(20.0, convert=number(), doc="the output is x where beta*x is above")
    forward = "tl.where({x} * {beta} > {threshold}, {x}, softplus({x} * {beta}) / {beta})"
    # of x: below a low threshold the output may lie above it
    derivative = "tl.where({x} * {beta} > {threshold}, {dy}, {dy} * tl.sigmoid({x} * {beta}))"
    torch = "F.softplus({x}, {beta}, {threshold})"
    helpers = (Nest("softplus", "softplus"),)
    examples = (
        ("6@5x7", "SOFTPLUS"),
        ("10", "SOFTPLUS(beta=2)"),
        ("10", "SOFTPLUS(beta=0.5, threshold=0.25)"),
    )
