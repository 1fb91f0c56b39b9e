"""Pointwise layers as table rows: a Triton expression, its derivative and the torch meaning.

What the backward pass saves is read off the derivative: ``{x}`` saves the input, ``{y}`` the
output. Expressions use only functions that torch has under the same name (``tl.where``,
``tl.exp``, ``tl.sigmoid``, ``tl.abs``), so the derivative also serves the float64 reference.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import Layer, Op
from convdsl.ir.types import TensorType

BLOCK = 1024


def pointwise_schedule(node: Node, tail: Tail) -> Schedule:
    """One launch of the 1-D nest; the arithmetic is in its epilogue."""
    elements = tail.output.type.elements
    size = f"n * {elements}" if tail.output.type.batched else f"{elements}"
    launch = Launch(
        Nest("pointwise", "pointwise"),
        {
            "x_ptr": node.inputs[0],
            "y_ptr": tail.output,
            "elements": Size(size),
            "BLOCK": BLOCK,
        },
        grid=(f"triton.cdiv({size}, {BLOCK})",),
    )
    return Schedule((launch,))


def fill(template: str, attributes: Any, **operands: str) -> str:
    """``template`` with operand names and the op's own fields put in."""
    values = {f.name: repr(getattr(attributes, f.name)) for f in fields(attributes)}
    return template.format(**values, **operands)


class Pointwise(Layer):
    """Base of the layers that act on each element alone."""

    forward: ClassVar[str]  # Triton, of {x} and the fields
    derivative: ClassVar[str]  # Triton, of {dy}, {x}, {y} and the fields
    torch: ClassVar[str]  # torch, of {x} and the fields
    has_epilogue = True
    is_activation = True

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (fill(self.torch, self, x=operands[0]),)

    def expression(self, *operands: str) -> str:
        return fill(self.forward, self, x=operands[0])

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, y = node.inputs[0], node.output
        saved = [v for key, v in (("{x}", x), ("{y}", y)) if key in self.derivative]
        (dx,) = build.add(PointwiseGradient(self), dy, *saved, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class PointwiseGradient(Op):
    """dx = dy * f'(x), from the saved tensors the derivative names: operands (dy[, x][, y])."""

    of: Pointwise
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    @property
    def needs_only_output(self) -> bool:
        """The derivative is written in the layer's output (ReLU, sigmoid, tanh, ...)."""
        return "{x}" not in self.of.derivative

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def expression(self, *operands: str) -> str:
        names = [key for key in ("x", "y") if f"{{{key}}}" in self.of.derivative]
        saved = dict(zip(names, operands[1:], strict=True))
        return fill(self.of.derivative, self.of, dy=operands[0], **saved)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (self.expression(*operands).replace("tl.", "torch."),)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)
