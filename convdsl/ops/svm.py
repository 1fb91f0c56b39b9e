"""The head SVM: multi-class hinge loss on raw scores."""

from convdsl.ir.arguments import field, number, whole
from convdsl.ir.head import Head, Labels, LossValues
from convdsl.ir.launch import Nest, Schedule
from convdsl.ir.op import ShapeError, head
from convdsl.ir.types import TensorType
from convdsl.ops._heads import needs_classes, over_rows


@head("SVM")
class Svm(Head):
    """L = mean over the batch of 1/C sum over c != t of max(0, margin - x[t] + x[c])^p (CS231n, 3).

    torch's F.multi_margin_loss. Labels t are class numbers 0 .. C-1 (int64), one per sample. The
    lectures' hinge loss is C times as large: they leave out the 1/C. predict() gives the scores.
    """

    margin: float = field(
        1.0, convert=number(), doc="how far the right score must stand above the others"
    )
    p: int = field(
        1, convert=whole(1, 2), doc="power of the hinge: 1, or 2 for the squared hinge loss"
    )

    def check(self, output: TensorType) -> None:
        if not output.is_vector:
            raise ShapeError(
                "E215",
                "{output} is no vector of scores",
                help="put GAP or FC(classes) before it",
                output=output,
            )
        needs_classes(output)

    def labels(self, output: TensorType) -> Labels:
        return Labels("classes", (), output.channels)

    def loss(self, output: str, labels: str, *constants: str) -> str:
        # by itself torch's mean of an empty batch is whatever stood in memory
        options = f'p={self.p}, margin={self.margin!r}, reduction="none"'
        return f"F.multi_margin_loss({output}, {labels}, {options}).mean()"

    def predict(self, output: str) -> str:
        return output

    def schedule(self, values: LossValues) -> Schedule:
        return over_rows(
            Nest("losses", "multi_margin"),
            values,
            {"MARGIN": self.margin, "P": self.p},
            factor=float(self.p),
            divisor=f"n * {values.output.type.channels}",
        )
