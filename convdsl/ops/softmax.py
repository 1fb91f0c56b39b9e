"""SOFTMAX as a layer: scores become probabilities that sum to 1 over the channels."""

from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import row_launch


@op("SOFTMAX")
class Softmax(Layer):
    """y[c] = exp(x[c]) / sum over k of exp(x[k]), for a vector or at every pixel of a map."""

    has_epilogue = True
    examples = (("10", "SOFTMAX"), ("21@5x7", "SOFTMAX"), ("1000", "SOFTMAX"))

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"torch.softmax({operands[0]}, dim=1)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors = {"x_ptr": x, "y_ptr": tail.output}
        return Schedule((row_launch(Nest("softmax", "softmax"), x.type, tensors),))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(SoftmaxGradient(), dy, node.output, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class SoftmaxGradient(Op):
    """dx = y * (dy - sum over the channels of dy * y), from (dy, y)."""

    has_epilogue = True

    @property
    def title(self) -> str:
        return "softmax_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[1],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, y = operands
        return (f"{y} * ({dy} - ({dy} * {y}).sum(1, keepdim=True))",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, y = node.inputs
        tensors = {"dy_ptr": dy, "y_ptr": y, "dx_ptr": tail.output}
        return Schedule((row_launch(Nest("softmax", "softmax_gradient"), y.type, tensors),))
