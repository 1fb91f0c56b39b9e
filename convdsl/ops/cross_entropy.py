"""The head SOFTMAX: softmax with cross-entropy, trained on logits."""

from typing import ClassVar

from convdsl.ir.arguments import field, number, numbers, optional, whole
from convdsl.ir.head import Head, Labels, LossValues
from convdsl.ir.launch import Nest, Schedule
from convdsl.ir.op import ParameterSpec, head
from convdsl.ir.types import TensorType
from convdsl.ops._heads import constant, needs_classes, one_per_channel, over_rows


@head("SOFTMAX")
class SoftmaxCrossEntropy(Head):
    """L = mean of -log softmax(x)[label] over the batch and the pixels or steps (CS231n, 3).

    Labels are class numbers 0 .. C-1 (int64), one per sample, step or pixel. With class_weights the
    mean is weighted, as torch's F.cross_entropy: the sum of w[label] * loss over the sum of
    w[label]. Where every label is ignored the loss is NaN and the gradient 0.
    """

    absorbs: ClassVar[str | None] = "SOFTMAX"

    class_weights: tuple[float, ...] | None = field(
        None,
        convert=optional(numbers(0.0)),
        doc="how much a sample of each class counts: one number >= 0 per class, (0.2, 1, 3)",
    )
    label_smoothing: float = field(
        0.0,
        convert=number(0.0, 1.0),
        doc="share of the target spread evenly over all classes (Szegedy et al., 2015)",
    )
    ignore_index: int = field(
        -100, convert=whole(), doc="label of samples, steps or pixels that do not count"
    )

    def check(self, output: TensorType) -> None:
        needs_classes(output)
        if self.class_weights is not None:
            one_per_channel(self.class_weights, output, "class_weights")

    def labels(self, output: TensorType) -> Labels:
        return Labels("classes", output.spatial, output.channels, self.ignore_index)

    def constants(self, output: TensorType) -> dict[str, ParameterSpec]:
        return {} if self.class_weights is None else {"class_weights": constant(self.class_weights)}

    def loss(self, output: str, labels: str, *constants: str) -> str:
        options = [f"weight={weights}" for weights in constants]
        if self.ignore_index != -100:
            options.append(f"ignore_index={self.ignore_index}")
        if self.label_smoothing:
            options.append(f"label_smoothing={self.label_smoothing!r}")
        return f"F.cross_entropy({', '.join([output, labels, *options])})"

    def predict(self, output: str) -> str:
        return f"torch.softmax({output}, dim=1)"

    def schedule(self, values: LossValues) -> Schedule:
        weights = self.class_weights
        return over_rows(
            Nest("cross_entropy", "cross_entropy"),
            values,
            {
                "class_weights_ptr": values.constants[0] if weights else None,
                "IGNORE": self.ignore_index,
                "SMOOTH": self.label_smoothing,
                "TOTAL": float(values.output.type.channels if weights is None else sum(weights)),
            },
        )
