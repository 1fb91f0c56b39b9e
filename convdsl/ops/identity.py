"""ID: the branch that passes its input through."""

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.op import Layer, op
from convdsl.ir.types import TensorType


@op("ID")
class Identity(Layer):
    """y = x: the untouched branch of a merge (He et al., 2015)."""

    aliases = ("IDENTITY", "SKIP")
    examples = (("6@5x7", "ID"), ("10", "ID"))

    def is_view(self, x: TensorType) -> bool:
        return True

    def is_identity(self, training: bool) -> bool:
        return True

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (operands[0],)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        return {node.inputs[0]: dy}
