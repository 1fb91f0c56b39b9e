"""The head SIGMOID: binary cross-entropy for every output by itself, trained on logits."""

from typing import Any, ClassVar

from convdsl.ir.arguments import ArgumentError, field, number, numbers
from convdsl.ir.head import Head, Labels, LossValues
from convdsl.ir.launch import Nest, Schedule
from convdsl.ir.op import ParameterSpec, head
from convdsl.ir.types import TensorType
from convdsl.ops._heads import constant, one_per_channel, over_elements


def _one_or_several(value: Any) -> float | tuple[float, ...]:
    """A number >= 0, or a tuple of them."""
    convert = numbers(0.0) if isinstance(value, tuple) else number(0.0)
    try:
        return convert(value)  # type: ignore[no-any-return]
    except ArgumentError:
        raise ArgumentError("a number >= 0, or one per channel as in (0.5, 1, 2)") from None


@head("SIGMOID")
class SigmoidCrossEntropy(Head):
    """L = mean of -(q y log s(x) + (1 - y) log(1 - s(x))) over batch and outputs, s the sigmoid.

    For labels that do not exclude one another, or two classes with one output: torch's
    F.binary_cross_entropy_with_logits. Labels y have the shape of the output and lie in 0 .. 1, q
    is pos_weight. predict() gives s(x).
    """

    absorbs: ClassVar[str | None] = "SIGMOID"

    pos_weight: float | tuple[float, ...] = field(
        1.0,
        convert=_one_or_several,
        doc="how much a 1 counts beside a 0: a number >= 0, or one per channel",
    )

    def check(self, output: TensorType) -> None:
        if isinstance(self.pos_weight, tuple):
            one_per_channel(self.pos_weight, output, "pos_weight")

    def labels(self, output: TensorType) -> Labels:
        return Labels("numbers", output.shape, least=0.0, most=1.0)

    def constants(self, output: TensorType) -> dict[str, ParameterSpec]:
        if self.pos_weight == 1.0:
            return {}
        numbers = self.pos_weight
        if not isinstance(numbers, tuple):
            numbers = (numbers,) * output.channels
        return {"pos_weight": constant(numbers, len(output.spatial))}

    def loss(self, output: str, labels: str, *constants: str) -> str:
        options = [f"pos_weight={weights}" for weights in constants]
        return f"F.binary_cross_entropy_with_logits({', '.join([output, labels, *options])})"

    def predict(self, output: str) -> str:
        return f"torch.sigmoid({output})"

    def schedule(self, values: LossValues) -> Schedule:
        return over_elements(
            Nest("losses", "binary_cross_entropy"),
            values,
            {
                "pos_weight_ptr": values.constants[0] if values.constants else None,
                "C": values.output.type.channels,
            },
        )
