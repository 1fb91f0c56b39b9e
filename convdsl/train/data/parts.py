"""What a reader gives: two parts of samples with labels, and what is known of them.

A part hands out the inputs of some rows at a time, so that pictures may stay in their files.
Pictures are uint8 in 0..255 or float32 in 0..1, (N, C, H, W); other inputs are float32.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from convdsl.train.problem import TrainingError

if TYPE_CHECKING:
    from convdsl.train.data.stream import Stream

Shape = tuple[int, ...]
#: kind, shape of one sample, and for classes (number, ignored), for numbers (least, most)
LabelSpec = tuple[str, tuple[int, ...], float | None, float | None]


class Part(Protocol):
    """Samples in order."""

    @property
    def labels(self) -> Tensor: ...

    @property
    def in_memory(self) -> bool:
        """Rows come at once; those of others are worth fetching ahead."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The inputs of these rows, one tensor for each input of the network."""
        ...


@dataclass(frozen=True)
class Arrays:
    """Samples in memory."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    in_memory: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(x[rows] for x in self.inputs)


def check_counts(inputs: tuple[Tensor, ...], labels: Tensor) -> None:
    """Raises TrainingError unless there is a label for every sample."""
    for x in inputs:
        if len(x) != len(labels):
            raise TrainingError("E411", f"there are {len(x):,} inputs and {len(labels):,} labels")


@dataclass(frozen=True)
class Request:
    """What the network reads, and how data is to be brought to it.

    inputs: name -> shape of one sample. label: what its head wants. holdout: share that is held
    out where the data set has no part of its own for it; split_seed decides which. resize, pad:
    bring pictures of another size to the network's. stream: read samples as they are needed.
    """

    inputs: dict[str, Shape]
    label: LabelSpec
    holdout: float = 0.25
    split_seed: int = 0
    resize: bool = False
    pad: bool = False
    stream: bool = False

    def choices(self) -> dict[str, Any]:
        """What the user chose, to ask for the same data again."""
        names = ("holdout", "split_seed", "resize", "pad", "stream")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Data:
    """A data set: what is trained on, and what is held out.

    name: as the user asked for it. classes: their names in the order of their numbers, () where
    they have none. augment: what suits these pictures unless the user says otherwise.
    notes: what the user should know, such as pictures left out.
    """

    name: str
    train: "Part | Stream"
    test: "Part | Stream"
    classes: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
