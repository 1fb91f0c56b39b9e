"""HARDSWISH."""

from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("HARDSWISH")
class HardSwish(Pointwise):
    """x * min(max(0, x + 3), 6) / 6 (Howard et al., 2019: MobileNetV3)."""

    forward = "{x} * hard_sigmoid({x})"
    # at the kinks torch's: 0 at -3 and 1 at 3
    derivative = (
        "tl.where({x} <= -3.0, 0.0, {dy} * tl.where({x} < 3.0, {x} * (1.0 / 3.0) + 0.5, 1.0))"
    )
    torch = "F.hardswish({x})"
    helpers = (Nest("hard_sigmoid", "hard_sigmoid"),)
    examples = (("6@5x7", "HARDSWISH"), ("10", "HARDSWISH"))
