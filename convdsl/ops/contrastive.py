"""The head CONTRASTIVE: pulls similar pairs together and pushes others a margin apart."""

from typing import ClassVar

from convdsl.ir.arguments import field, number
from convdsl.ir.head import Head, Labels, LossValues
from convdsl.ir.launch import Nest, Schedule
from convdsl.ir.op import ShapeError, head
from convdsl.ir.types import TensorType
from convdsl.ops._heads import over_elements


@head("CONTRASTIVE")
class Contrastive(Head):
    """L = mean over the batch of y d^2 + (1 - y) max(0, margin - d)^2, d the distance of a pair.

    Labels: y = 1 is a similar pair, y = 0 a different one, a number a sample. Hadsell, Chopra and
    LeCun (2006), "Dimensionality Reduction by Learning an Invariant Mapping", write it the other
    way round (their Y = 1 is a different pair) and with a factor of 1/2, which is left out here.
    predict() gives the distance.
    """

    on_scores: ClassVar[bool] = False

    margin: float = field(
        1.0, convert=number(0.0), doc="distance at which a different pair is far enough apart"
    )

    def check(self, output: TensorType) -> None:
        if output.shape != (1,):
            raise ShapeError(
                "E215",
                "{output} is no distance, which is one number a pair",
                help="end the net with a distance: DISTANCE{{ @a - tower | @b - tower }}",
                output=output,
            )

    def labels(self, output: TensorType) -> Labels:
        return Labels("pairs", (1,))

    def loss(self, output: str, labels: str, *constants: str) -> str:
        near = f"{labels} * {output}**2"
        far = f"(1 - {labels}) * F.relu({self.margin!r} - {output})**2"
        return f"({near} + {far}).mean()"

    def predict(self, output: str) -> str:
        return output

    def schedule(self, values: LossValues) -> Schedule:
        return over_elements(
            Nest("losses", "contrastive"), values, {"MARGIN": self.margin}, factor=2.0
        )
