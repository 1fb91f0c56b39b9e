"""The gradient of a bias where no other kernel of the layer sums dy on its way."""

from dataclasses import dataclass

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._channel_sum import channel_sum
from convdsl.ops._reduce import total_of


@dataclass(frozen=True)
class BiasGradient(Op):
    """db from dy: the sum over the batch, and over the positions too unless ``per_position``.

    Summed in float32 in a fixed order: shares over stretches of the rows, then one tree.
    """

    per_position: bool

    @property
    def title(self) -> str:
        return "bias_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        (dy,) = operands
        shape = dy.shape if self.per_position else dy.shape[:1]
        return (TensorType(shape, DType.FLOAT32, batched=False),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        (dy,) = operands
        if self.per_position:
            return (f"{dy}.sum(0)",)
        return (f"{dy}.transpose(0, 1).flatten(1).sum(1)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, db = node.inputs[0], tail.output
        if not self.per_position:
            return channel_sum(dy, db)
        # a sample is one row, and the bias lies in memory as the sample does, channels last
        row = TensorType((dy.type.elements,), DType.FLOAT32, batched=False)
        sums = channel_sum(dy, Value(db.name, row))
        (partial,) = sums.scratch
        total = total_of(partial, db, None)
        return Schedule((sums.launches[0], total), sums.scratch)
