"""ACTIVITY: a penalty on the values that pass, as a term of the loss."""

from convdsl.ir.arguments import field, number
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Penalty, Value
from convdsl.ir.op import Layer, op
from convdsl.ir.types import TensorType


@op("ACTIVITY")
class Activity(Layer):
    """y = x, and in training the loss gets l1 * sum of |x| + l2 * sum of x^2, over the batch size.

    Behind an activation it makes it sparse; Keras calls it ActivityRegularization.
    """

    l1: float = field(0.0, convert=number(0.0), doc="factor of the sum of |x|")
    l2: float = field(0.0, convert=number(0.0), doc="factor of the sum of x^2")

    aliases = ("ACTIVITYREGULARIZATION",)
    examples = (("6@5x7", "ACTIVITY(l1=0.01)"), ("10", "ACTIVITY(l1=0.1, l2=0.01)"))

    @property
    def penalty(self) -> Penalty:
        return (self.l1, self.l2)

    def is_view(self, x: TensorType) -> bool:
        return True

    def is_identity(self, training: bool) -> bool:
        return True

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (operands[0],)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        """That of the sum comes through the output the penalty is worked out from."""
        return {node.inputs[0]: dy}
