"""Held-out loss and accuracy, summed up batch by batch."""

from typing import Any

import torch
from torch import Tensor


class Score:
    """Sums of losses, right answers and answers; accuracy is of heads whose labels are classes.

    With several heads the accuracy is the first's that works at inference. Of label maps every
    pixel counts.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._right: list[Tensor] = []
        self._weights: list[int] = []
        self._answers: list[Tensor | int] = []

    @torch.no_grad()
    def add(
        self, network: Any, inputs: list[Tensor], labels: Any, judge: Any = None
    ) -> Tensor | None:
        """Takes in one batch; what was answered, None where labels are no classes.

        judge: the class of networks whose loss it is, of the network's own by default.
        """
        training = network.training
        judge = judge or type(network)
        network.eval()
        try:
            found = network(*inputs)
            names = [name for name in network.OUTPUTS if name not in network.TRAINING_ONLY]
            several = len(names) > 1
            outputs = {name: getattr(found, name) if several else found for name in names}
            given = network._labels(labels, inputs[0])
            self._losses.append(judge.losses(network, outputs, given).double() * len(inputs[0]))
            self._weights.append(len(inputs[0]))
            head = first_head(network)
            if head is None or network.LABELS[head][0] != "classes":
                return None
            guess: Tensor = network.predictions(outputs)[head].argmax(1)
            counted = given[head] != network.LABELS[head][3]
            self._right.append(((guess == given[head]) & counted).sum())
            self._answers.append(counted.sum())
            return guess
        finally:
            network.train(training)

    def sums(self, device: torch.device | str = "cpu") -> Tensor:
        """(sum of losses, samples, right answers, answers) in float64 (float32 on MPS)."""
        columns: list[Any] = [self._losses, self._weights, self._right, self._answers]
        return torch.stack([torch.as_tensor(_total(c), dtype=torch.float64) for c in columns]).to(
            device
        )

    @staticmethod
    def means(sums: Tensor) -> dict[str, float]:
        """``loss``, and ``accuracy`` where there are answers."""
        losses, samples, right, answers = sums.tolist()
        found = {"loss": losses / samples if samples else float("nan")}
        if answers:
            found["accuracy"] = right / answers
        return found


def _total(column: list[Any]) -> float:
    return float(sum(float(item) for item in column))


def first_head(network: Any) -> str | None:
    """The first output with a head that works at inference."""
    names = (name for name in network.LABELS if name not in network.TRAINING_ONLY)
    return next(names, None)
