"""What would go wrong in training, found before the first step and said in the user's words."""

from dataclasses import replace

import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Data, LabelSpec, Part, Request
from convdsl.train.data.stream import Stream
from convdsl.train.problem import TrainingError


def checked(data: Data, request: Request) -> Data:
    """The data with labels in the form the head wants. Raises TrainingError.

    Looks at every label that is here, and at every number of inputs that lie in memory.
    """
    parts = {"training": data.train, "held-out": data.test}
    made: dict[str, Part | Stream] = {}
    for name, part in parts.items():
        if not len(part):
            raise TrainingError("E410", f"the {name} part of the data is empty", "give more data")
        if isinstance(part, Stream):  # looked at as they come
            made[name] = part
            continue
        labels = checked_labels(part.labels, request.label, name)
        if isinstance(part, Arrays):
            for x, input_name in zip(part.inputs, request.inputs, strict=True):
                _check_numbers(x, input_name, name)
        made[name] = replace(part, labels=labels)  # type: ignore[type-var]
    if request.label[0] == "classes" and data.classes:
        _check_count(len(data.classes), int(request.label[2] or 0))
    return replace(data, train=made["training"], test=made["held-out"])


def checked_labels(y: Tensor, spec: LabelSpec, part: str) -> Tensor:
    """Labels in dtype and shape as the head wants them. Raises TrainingError."""
    kind, shape, first, second = spec
    if kind != "classes":
        return y.float()
    if y.dim() == len(shape) + 2 and y.shape[-1] == first and y.shape[-1] > 1:
        raise TrainingError(
            "E413",
            f"the labels have shape {tuple(y.shape)}, which looks one-hot",
            "store class numbers: labels.argmax(axis=-1)",
        )
    if y.dim() == len(shape) + 2 and y.shape[-1] == 1:
        y = y[..., 0]
    if tuple(y.shape[1:]) != tuple(shape):
        wanted = f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"
        raise TrainingError(
            "E413", f"the labels have shape {tuple(y.shape)}, the head wants {wanted}"
        )
    if y.is_floating_point():
        raise TrainingError(
            "E413",
            "the labels are fractions, the head wants class numbers",
            "store whole numbers: labels.astype('int64')",
        )
    y = y.long()
    counted = y if second is None else y[y != int(second)]
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if low < 0 or high >= int(first or 0):
        worst = low if low < 0 else high
        advice = "number the classes from 0"
        if low >= 0:
            advice = f"end the network with {high + 1} scores, or number the classes from 0"
        raise TrainingError(
            "E413",
            f"label {worst} in the {part} part, but the network's last layer gives {first:g} "
            f"scores: classes 0 to {int(first or 0) - 1}",
            advice,
        )
    return y


def _check_count(classes: int, scores: int) -> None:
    if classes > scores:
        raise TrainingError(
            "E413",
            f"the data has {classes} classes, the network's last layer gives {scores} scores",
            f"--replace-head, or end the network with {classes} scores",
        )


def _check_numbers(x: Tensor, name: str, part: str) -> None:
    if not x.is_floating_point():
        return
    # a sum is not finite if one of its numbers is not; overflow needs a closer look
    sums = x.flatten(1).sum(1, dtype=torch.float64)
    bad = torch.nonzero(~torch.isfinite(sums))
    if len(bad):
        raise TrainingError(
            "E414",
            f"{len(bad):,} samples of {name} in the {part} part are not finite, the first in row "
            f"{int(bad[0])}",
            "remove them or replace NaN and infinity by numbers",
        )
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if x.dim() == 4 and low >= 0 and 16 < high <= 255:
        raise TrainingError(
            "E414",
            f"the numbers of {name} reach from {low:g} to {high:g}: pictures not scaled",
            "store them as uint8, or divide by 255",
        )
