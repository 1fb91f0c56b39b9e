"""How good a trained network is on samples: loss, accuracy, and which classes it mixes up."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convdsl.train.batches import Batches
from convdsl.train.data.parts import Part
from convdsl.train.data.stream import Stream
from convdsl.train.score import Score, first_head
from convdsl.train.trained import Trained

BATCH = 256


@dataclass(frozen=True)
class Evaluation:
    """samples: how many. loss: mean, NaN for an ensemble. accuracy, confusion (rows: the labels,
    columns: the answers): None where labels are no classes. members: accuracy of each."""

    samples: int
    loss: float
    accuracy: float | None = None
    confusion: Tensor | None = None
    members: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        made: dict[str, Any] = {"samples": self.samples}
        if self.loss == self.loss:
            made["loss"] = self.loss
        if self.accuracy is not None and self.confusion is not None:
            made |= {"accuracy": self.accuracy, "confusion": self.confusion.tolist()}
        if len(self.members) > 1:
            made["members"] = list(self.members)
        return made


def evaluate(trained: Trained, part: Part | Stream) -> Evaluation:
    """Over all samples of a part."""
    scores = [Score() for _ in trained.members]
    first = trained.members[0].network
    device = next(first.parameters()).device
    name = first_head(first)
    kind, _, count, ignored = first.LABELS[name]
    classes = int(count or 0) if kind == "classes" else 0
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for batch in Batches(part, BATCH):
        inputs = tuple(x.to(device) for x in batch.inputs)
        labels = batch.labels.to(device)
        for member, score in zip(trained.members, scores, strict=True):
            guess = score.add(member.network, member.prepared(inputs), labels)
        if not classes:
            continue
        if len(trained.members) > 1:
            guess = trained.probabilities(*inputs).argmax(1)
        assert guess is not None
        counted = labels != ignored
        cells = labels[counted] * classes + guess[counted]
        confusion += torch.bincount(cells.cpu(), minlength=classes**2).view(classes, classes)
    means = [Score.means(score.sums()) for score in scores]
    loss = means[0]["loss"] if len(means) == 1 else float("nan")
    if not classes:
        return Evaluation(len(part), loss)
    accuracy = int(confusion.diagonal().sum()) / max(1, int(confusion.sum()))
    members = tuple(mean.get("accuracy", float("nan")) for mean in means)
    return Evaluation(len(part), loss, accuracy, confusion, members)
