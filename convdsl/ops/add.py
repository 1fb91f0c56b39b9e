"""ADD: the sum of two or more tensors of one shape."""

from collections import Counter
from typing import Any

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Layer, ShapeError, op
from convdsl.ir.types import TensorType
from convdsl.ops._pointwise import pointwise_schedule


@op("ADD")
class Add(Layer):
    """y = a + b + ...: the skip connection of residual networks (He et al., 2015)."""

    arity = 0
    has_epilogue = True
    output_is_free = True
    aliases = ("SUM", "PLUS", "ELTWISE")
    examples = (
        ("6@5x7", "ADD{ID | RELU}"),
        ("10", "ADD{SIGMOID | TANH | RELU}"),
        ("3@4x4", "ADD{ID | ID}"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        if len({x.shape for x in inputs}) > 1:
            raise disagreement("ADD branches disagree", inputs, projection(inputs))
        return inputs[0]

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        # gradients of parameters are summed by this op too, and they have no batch
        return (self.shape(*operands),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (" + ".join(operands),)

    def expression(self, *operands: str) -> str:
        return " + ".join(operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        """dy for each input; an input that was added k times gets k * dy."""
        gradients = {}
        for x, times in Counter(node.inputs).items():
            gradients[x] = dy
            if times > 1:
                (gradients[x],) = build.add(Add(), *(dy,) * times, names=(f"d_{x.name}",))
        return gradients


def disagreement(message: str, inputs: tuple[TensorType, ...], help: str) -> ShapeError:
    """E210 with the shapes of all branches."""
    shapes: dict[str, Any] = {f"x{i}": x for i, x in enumerate(inputs)}
    *most, last = (f"{{{name}}}" for name in shapes)
    return ShapeError("E210", f"{message}: {', '.join(most)} and {last}", help=help, **shapes)


def projection(inputs: tuple[TensorType, ...]) -> str:
    """What would bring the first branch that differs to the shape of the smallest map."""
    target = min(inputs, key=lambda x: (x.pixels, len(x.shape)))
    other = next(x for x in inputs if x.shape != target.shape)
    if target.is_vector:
        return f"end the other branch in FC({target.channels})"
    if len(target.shape) != len(other.shape):
        return "a map and a sequence have no shape in common: end both in vectors"
    steps = {
        a // b if a % b == 0 else 0 for a, b in zip(other.spatial, target.spatial, strict=True)
    }
    if len(steps) == 1 and (step := steps.pop()):
        stride = f", S={step}" if step > 1 else ""
        return f"project the other branch: CONV({target.channels}, F=1{stride}, P=0)"
    return "make the strides and paddings of the branches agree"
