"""Data sets of the Hugging Face hub, through their `datasets` package where it is installed."""

from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Data, Request
from convdsl.train.data.pictures import mode_for
from convdsl.train.data.split import split_arrays
from convdsl.train.data.suit import suited
from convdsl.train.problem import TrainingError

PICTURES = ("image", "img", "picture")
LABELS = ("label", "labels", "fine_label", "target")
HELD_OUT = ("test", "validation", "valid")


def read_hub(argument: str, request: Request) -> Data:
    """``NAME`` or ``NAME/SUBSET``'s pictures and labels. Raises TrainingError.

    Code that a data set would bring along is never run.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise TrainingError(
            "E411", "hf: needs the package datasets", "pip install datasets"
        ) from None
    try:
        found = datasets.load_dataset(argument)
    except Exception as error:  # the package raises its own of many kinds
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError("E411", f"the hub gives no data set {argument!r}: {why}") from error
    if "train" not in found:
        raise TrainingError("E411", f"{argument} has no part 'train', only {', '.join(found)}")
    features = found["train"].features
    picture, label = (_column(features, names, argument) for names in (PICTURES, LABELS))
    train = _part(found["train"], picture, label, request)
    held = next((name for name in HELD_OUT if name in found), None)
    if held is None:
        train, test = split_arrays(train.inputs, train.labels, request)
    else:
        test = _part(found[held], picture, label, request)
    classes = tuple(getattr(features[label], "names", None) or ())
    if not classes:
        classes = tuple(str(i) for i in range(int(train.labels.max()) + 1))
    return Data(
        f"hf:{argument}", suited(train, request), suited(test, request), classes, ("shift",)
    )


def _column(features: Any, names: tuple[str, ...], argument: str) -> str:
    for name in names:
        if name in features:
            return name
    raise TrainingError("E411", f"{argument} has columns {', '.join(features)}, none of {names}")


def _part(rows: Any, picture: str, label: str, request: Request) -> Arrays:
    mode = mode_for(next(iter(request.inputs.values())))
    pictures: list[Tensor] = []
    labels: list[int] = []
    for row in rows:
        pixels = np.array(row[picture].convert(mode), dtype=np.uint8)
        x = torch.from_numpy(pixels)
        pictures.append(x[None] if x.dim() == 2 else x.movedim(2, 0))
        labels.append(int(row[label]))
    if len({x.shape for x in pictures}) > 1:
        raise TrainingError(
            "E412", "the pictures differ in size", "save them in folders and use folder:FOLDER"
        )
    return Arrays((torch.stack(pictures),), torch.tensor(labels))
