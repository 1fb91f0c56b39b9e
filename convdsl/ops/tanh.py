"""TANH."""

from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("TANH")
class Tanh(Pointwise):
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)), squashes to (-1, 1) (LeCun et al., 1998)."""

    forward = "tanh({x})"
    derivative = "{dy} * (1.0 - {y} * {y})"
    torch = "torch.tanh({x})"
    helpers = (Nest("exponential", "tanh"),)
    examples = (("6@5x7", "TANH"), ("10", "TANH"))
