"""HARDSIGMOID."""

from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("HARDSIGMOID")
class HardSigmoid(Pointwise):
    """min(max(0, x + 3), 6) / 6 (Howard et al., 2019: MobileNetV3)."""

    forward = "hard_sigmoid({x})"
    # of x: just below x = 3 the output is rounded to 1
    derivative = "tl.where(({x} > -3.0) & ({x} < 3.0), {dy} / 6.0, 0.0)"
    torch = "F.hardsigmoid({x})"
    # torch multiplies by a 1/6 of float32, which shows in float64
    torch_derivative = "torch.ops.aten.hardsigmoid_backward({dy}, {x})"
    helpers = (Nest("hard_sigmoid", "hard_sigmoid"),)
    examples = (("6@5x7", "HARDSIGMOID"), ("10", "HARDSIGMOID"))
