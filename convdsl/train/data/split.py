"""Which samples are held out, where a data set does not say it itself."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from convdsl.train.data.parts import Arrays, Request, check_counts
from convdsl.train.problem import TrainingError


def split(labels: Tensor, request: Request) -> tuple[Tensor, Tensor]:
    """Row numbers of the training and of the held-out part, of every class its share.

    Classes of a single sample, and labels that are no classes, are shared out at random. Raises
    TrainingError if a part would be empty.
    """
    count = len(labels)
    share = request.holdout
    held = round(count * share) if 0 < share < 1 else 0
    if not 0 < held < count:
        raise TrainingError(
            "E410",
            f"of {count} samples {request.holdout:g} cannot be held out",
            "give more data or another --holdout",
        )
    order = np.arange(count)
    stratify = None
    if request.label[0] == "classes" and labels.dim() == 1:
        sizes = np.unique(labels.numpy(), return_counts=True)[1]
        if sizes.min() >= 2 and min(held, count - held) >= len(sizes):
            stratify = labels.numpy()
    train, test = train_test_split(
        order, test_size=request.holdout, stratify=stratify, random_state=request.split_seed
    )
    return torch.from_numpy(train), torch.from_numpy(test)


def split_arrays(
    inputs: tuple[Tensor, ...], labels: Tensor, request: Request
) -> tuple[Arrays, Arrays]:
    """`split`, applied."""
    check_counts(inputs, labels)
    train, test = split(labels, request)
    return (
        Arrays(tuple(x[train] for x in inputs), labels[train]),
        Arrays(tuple(x[test] for x in inputs), labels[test]),
    )
