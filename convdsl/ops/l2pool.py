"""L2POOL: Euclidean norm over a sliding window."""

from dataclasses import dataclass
from math import prod

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op, op
from convdsl.ir.types import TensorType
from convdsl.ops._pooling import Pooling
from convdsl.ops._sum_pooling import sum_launch


@op("L2POOL")
class L2Pool(Pooling):
    """y = sqrt(sum of x^2) over windows of extent F: W2 = (W1 - F + 2P)/S + 1.

    The gradient is dx = dy * x / y, and 0 where the whole window is 0 (torch has NaN there). As
    ``F.lp_pool2d`` with norm 2: a last window that round=ceil lets hang over the edge counts as if
    the places it lacks held the mean square of those it has.
    """

    aliases = ("LPPOOL", "NORMPOOL")
    examples = (
        ("6@6x8", "L2POOL"),
        ("3@7x9", "L2POOL(3, S=2, P=1)"),
        ("3@8x7", "L2POOL(3, S=2, round=ceil)"),
        ("2@7x8", "L2POOL(3x2, S=1x3, P=same)"),
        ("3@10", "L2POOL(3, S=2, P=1, round=ceil)"),
    )

    @property
    def count(self) -> str:
        """What the sum of squares is divided by, ``COUNT`` of ``kernels/pool.py``."""
        return "share" if self.rounds_up else "none"

    def reference(self, *operands: str) -> tuple[str, ...]:
        torch = self.torch
        x = torch.padded(operands[0])
        mean = f"F.avg_pool{self.axes}d({x}.square(), {torch.arguments()}, ceil_mode={torch.ceil})"
        # the square root of 0 has no derivative: it is kept away from it
        root = "torch.where(s == 0, 0.0, torch.where(s == 0, 1.0, s).sqrt())"
        return (f"(lambda s: {root})({mean} * {prod(torch.kernel)})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors = {"x_ptr": x, "w_ptr": None, "y_ptr": tail.output}
        window, y = self.window(x.type), node.output
        return sum_launch("sum_pool", tensors, x.type, y.type, window, self.count, NORM=True)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(L2PoolGradient(self), x, node.output, dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class L2PoolGradient(Op):
    """dx = x * (sum of dy / y over the windows that cover it), from (x, y, dy); 0 where y is 0."""

    of: L2Pool
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, _, dy = operands
        (forward,) = self.of.reference("x")
        return (f"torch.func.vjp(lambda x: {forward}, {x})[1]({dy})[0]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, y, dy = node.inputs
        tensors = {"dy_ptr": dy, "w_ptr": None, "x_ptr": x, "y_ptr": y, "dx_ptr": tail.output}
        window, count = self.of.window(x.type), self.of.count
        return sum_launch("sum_pool_gradient", tensors, x.type, dy.type, window, count)
