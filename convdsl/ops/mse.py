"""The head MSE: mean squared error, for regression."""

from typing import ClassVar

from convdsl.ir.head import Head, Labels, LossValues
from convdsl.ir.launch import Nest, Schedule
from convdsl.ir.op import head
from convdsl.ir.types import TensorType
from convdsl.ops._heads import over_elements


@head("MSE")
class MeanSquaredError(Head):
    """L = mean of (x - y)^2 over the batch and all outputs; torch's F.mse_loss.

    Labels y are numbers of the shape of the output. predict() gives the output as it is.
    """

    on_scores: ClassVar[bool] = False

    def check(self, output: TensorType) -> None:
        """Anything can be compared with numbers of its own shape."""

    def labels(self, output: TensorType) -> Labels:
        return Labels("numbers", output.shape)

    def loss(self, output: str, labels: str, *constants: str) -> str:
        return f"F.mse_loss({output}, {labels})"

    def predict(self, output: str) -> str:
        return output

    def schedule(self, values: LossValues) -> Schedule:
        return over_elements(Nest("losses", "squared_error"), values, {}, factor=2.0)
