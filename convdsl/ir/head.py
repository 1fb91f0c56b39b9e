"""The contract of heads: what stands after the comma, ``, SOFTMAX``.

A head is no layer: in training it makes a loss of an output and of labels, else a prediction. Like
a layer's, its dataclass fields are its arguments, and all its rules stand in one file of
`convdsl.ops`; `convdsl.ir.op.head` registers it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.ir.arguments import ArgumentSpec, argument_specs, choice, field, number
from convdsl.ir.graph import Value
from convdsl.ir.launch import Schedule
from convdsl.ir.types import DType, TensorType

if TYPE_CHECKING:
    from convdsl.ir.op import ParameterSpec


@dataclass(frozen=True, slots=True)
class Labels:
    """What a head must be told of every sample of a batch, checked before anything runs.

    kind: ``classes``, whole numbers 0 .. classes-1 (int64) of ``shape``, or ``ignored``;
    ``numbers`` of ``shape`` from ``least`` to ``most``; ``pairs``, one 0 or 1 a sample.
    """

    kind: str
    shape: tuple[int, ...] = ()
    classes: int = 0
    ignored: int | None = None
    least: float | None = None
    most: float | None = None

    @property
    def type(self) -> TensorType:
        """As the kernels get them."""
        return TensorType(self.shape, DType.INT64 if self.kind == "classes" else DType.FLOAT32)


@dataclass(frozen=True, slots=True)
class LossValues:
    """What the kernels of a head read and write.

    output, labels, constants: read. loss: the mean loss, a float32 scalar. gradient and scale:
    dLoss/dOutput is their product. Kept apart, the tensor loses nothing in float16, where the mean
    over many pixels would fall below the smallest number.
    """

    output: Value
    labels: Value
    loss: Value
    scale: Value
    gradient: Value
    constants: tuple[Value, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """What stands after the comma: makes a loss for training and a prediction of an output."""

    name: ClassVar[str]
    #: name of the layer this head already contains, None if it contains none
    absorbs: ClassVar[str | None] = None
    #: it works on raw scores, which an activation before it would bend
    on_scores: ClassVar[bool] = True

    weight: float = field(
        1.0,
        convert=number(0.0),
        doc="factor of its loss in the network's loss",
    )
    only: str | None = field(
        None,
        convert=choice("training"),
        doc="`training` for an output that is no part of the network at inference, such as an "
        "auxiliary classifier; not for the net itself",
    )

    @abstractmethod
    def check(self, output: TensorType) -> None:
        """Raises ShapeError if the head cannot stand on this output."""

    @abstractmethod
    def labels(self, output: TensorType) -> Labels:
        """What a sample's target is."""

    def constants(self, output: TensorType) -> dict[str, "ParameterSpec"]:
        """Fixed tensors, of role CONSTANT, that `loss` and `schedule` are given, by their names."""
        return {}

    @abstractmethod
    def loss(self, output: str, labels: str, *constants: str) -> str:
        """A torch expression of the mean loss over the batch, `weight` left out.

        Operands are names of tensors, constants in the order of `constants`; they are of one dtype.
        """

    @abstractmethod
    def predict(self, output: str) -> str:
        """A torch expression of the prediction."""

    @abstractmethod
    def schedule(self, values: LossValues) -> Schedule:
        """Launches that compute loss, scale and gradient together."""

    @classmethod
    def arguments(cls) -> tuple[ArgumentSpec, ...]:
        return argument_specs(cls)
