"""Pictures in files -> the most probable classes."""

from collections.abc import Sequence
from pathlib import Path

import torch

from convdsl.train.data.pictures import BadPictureError, decode, mode_for
from convdsl.train.problem import TrainingError
from convdsl.train.trained import Trained

#: pictures asked about at once
BATCH = 64

Answer = tuple[Path, list[tuple[str, float]]]


def answers(
    trained: Trained, images: Sequence[Path], top: int
) -> tuple[list[Answer], list[tuple[Path, str]]]:
    """Of each picture the ``top`` classes with their probabilities; and which are no pictures.

    Raises TrainingError for a network whose answer is no class, or that reads no pictures.
    """
    request = trained.request
    kind, shape = request.label[0], next(iter(request.inputs.values()))
    if kind != "classes" or request.label[1] or len(request.inputs) > 1:
        raise TrainingError(
            "E412", "the network does not tell the class of one picture", "use it from Python"
        )
    mode_for(shape)
    found: list[Answer] = []
    bad: list[tuple[Path, str]] = []
    device = next(trained.members[0].network.parameters()).device
    for start in range(0, len(images), BATCH):
        whole = []
        for path in images[start : start + BATCH]:
            try:
                whole.append((path, decode(path, shape)))
            except BadPictureError as error:
                bad.append((path, str(error)))
        if not whole:
            continue
        chances = trained.probabilities(torch.stack([x for _, x in whole]).to(device)).cpu()
        for (path, _), row in zip(whole, chances, strict=True):
            best = row.topk(min(top, len(row)))
            names = trained.classes or tuple(str(i) for i in range(len(row)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found.append((path, [(names[i] if i < len(names) else str(i), p) for i, p in pairs]))
    return found, bad
