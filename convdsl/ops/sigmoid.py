"""SIGMOID."""

from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("SIGMOID")
class Sigmoid(Pointwise):
    """1 / (1 + exp(-x)), squashes to (0, 1) (CS231n, lecture 6)."""

    forward = "tl.sigmoid({x})"
    derivative = "{dy} * {y} * (1.0 - {y})"
    torch = "torch.sigmoid({x})"
    aliases = ("LOGISTIC",)
    examples = (("6@5x7", "SIGMOID"), ("10", "SIGMOID"))
