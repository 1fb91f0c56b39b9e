"""RELU."""

from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("RELU")
class Relu(Pointwise):
    """max(0, x), with NaN passed through (Nair and Hinton, 2010)."""

    forward = "tl.where({x} <= 0.0, 0.0, {x})"
    derivative = "tl.where({y} <= 0.0, 0.0, {dy})"
    condition = "{y} <= 0.0"
    torch = "F.relu({x})"
    may_follow_pool = True
    examples = (("6@5x7", "RELU"), ("10", "RELU"), ("16@3x5", "RELU"))

    def torch_in_place(self, x: str) -> str:
        return f"F.relu({x}, inplace=True)"
