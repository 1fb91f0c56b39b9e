"""MISH."""

from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("MISH")
class Mish(Pointwise):
    """x * tanh(log(1 + exp(x))) (Misra, 2019)."""

    forward = "{x} * tanh_softplus({x})"
    derivative = "{dy} * tanh_softplus_gate_slope({x})"
    torch = "F.mish({x})"
    torch_derivative = "torch.ops.aten.mish_backward({dy}, {x})"
    helpers = (Nest("softplus", "tanh_softplus"),)
    gradient_helpers = (Nest("softplus", "tanh_softplus_gate_slope"),)
    examples = (("6@5x7", "MISH"), ("10", "MISH"))
