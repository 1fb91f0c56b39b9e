"""What a backward pass needs to know of an activation's output, if that is a condition: bits.

    bits = condition(y);  dx = f'(bits) * dy

A sixteenth of the bytes that y itself takes in 16 bits.
"""

from dataclasses import dataclass

from convdsl.ir.graph import Node
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._pointwise import Pointwise, fill, pointwise_schedule


@dataclass(frozen=True)
class Bits(Op):
    """The condition of an activation on its output y."""

    of: Pointwise
    has_epilogue = True

    @property
    def helpers(self) -> tuple[Nest, ...]:
        return (Nest("bits", "store_bits"),)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(operands[0].shape, DType.BIT, operands[0].batched),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (self.expression(*operands),)

    def expression(self, *operands: str) -> str:
        return fill(self.of.condition, self.of, y=operands[0])

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail, Nest("bits", "pack_bits"))


@dataclass(frozen=True)
class GradientByBits(Op):
    """dx = dy * f'(x), from (dy, bits)."""

    of: Pointwise
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    @property
    def helpers(self) -> tuple[Nest, ...]:
        return (Nest("bits", "load_bits"),)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def expression(self, *operands: str) -> str:
        dy, bits = operands
        return fill(self.of.derivative.replace(self.of.condition, bits), self.of, dy=dy)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (self.expression(*operands).replace("tl.", "torch."),)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)
