"""GELU."""

from convdsl.ir.arguments import choice, field
from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("GELU")
class Gelu(Pointwise):
    """x * P(X < x) for a normally distributed X (Hendrycks and Gimpel, 2016)."""

    approximate: str = field(
        "none", convert=choice("none", "tanh"), doc="tanh: the paper's approximation of P"
    )
    forward = "{x} * normal_cdf({x}, {approximate})"
    derivative = "{dy} * normal_gate_slope({x}, {approximate})"
    torch = "F.gelu({x}, approximate={approximate})"
    torch_derivative = "torch.ops.aten.gelu_backward({dy}, {x}, approximate={approximate})"
    helpers = (Nest("normal", "normal_cdf"),)
    gradient_helpers = (Nest("normal", "normal_gate_slope"),)
    examples = (("6@5x7", "GELU"), ("10", "GELU(approximate=tanh)"))
