"""Data sets of the Hugging Face hub, through their `datasets` package where it is installed.

A folder of their files will do as well as a name on the hub.
"""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import torch

from convdsl.train.data.parts import Arrays, Data, Request
from convdsl.train.data.pictures import BadPictureError, PictureFile, left_out, mode_for
from convdsl.train.data.split import split_arrays
from convdsl.train.data.stream import Sample, Stream, picture
from convdsl.train.problem import TrainingError

PICTURES = ("image", "img", "picture")
LABELS = ("label", "labels", "fine_label", "target")
HELD_OUT = ("test", "validation", "valid")
#: decoded pictures of a data set that fit into memory
MOST_BYTES = 1 << 33
#: encoded pictures that a stream is shuffled among; its files are shuffled too
BUFFER = 2_000


def read_hub(argument: str, request: Request) -> Data:
    """``NAME``'s pictures and labels. Raises TrainingError.

    Code that a data set would bring along is never run.
    """
    try:
        datasets: Any = import_module("datasets")
    except ImportError:
        raise TrainingError(
            "E411", "hf: needs the package datasets", "pip install datasets"
        ) from None
    datasets.disable_progress_bars()
    mode_for(next(iter(request.inputs.values())))
    try:
        found = datasets.load_dataset(argument, streaming=request.stream)
    except Exception as error:  # the package raises its own of many kinds
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError("E411", f"the hub gives no data set {argument!r}: {why}") from error
    if "train" not in found:
        raise TrainingError("E411", f"{argument} has no part 'train', only {', '.join(found)}")
    features = found["train"].features
    columns = [_column(features, names, argument) for names in (PICTURES, LABELS)]
    parts = {
        name: rows.select_columns(columns).cast_column(columns[0], datasets.Image(decode=False))
        for name, rows in found.items()
        if name in ("train", *HELD_OUT)
    }
    held = next((name for name in HELD_OUT if name in parts), None)
    classes = tuple(getattr(features[columns[1]], "names", None) or ())
    name = f"hf:{argument}"
    if request.stream:
        if held is None:
            raise TrainingError(
                "E410",
                f"{argument} has no part to hold out, and a stream cannot be split",
                "leave --stream out",
            )
        streams = [_stream(datasets, parts[p], columns, p, request) for p in ("train", held)]
        return Data(name, streams[0], streams[1], classes, ("shift",))
    bad: dict[str, str] = {}
    train = _arrays(datasets, parts["train"], columns, request, bad)
    if held is None:
        train, test = split_arrays(train.inputs, train.labels, request)
    else:
        test = _arrays(datasets, parts[held], columns, request, bad)
    classes = classes or tuple(str(i) for i in range(int(train.labels.max()) + 1))
    return Data(name, train, test, classes, ("shift",), left_out(bad))


def _column(features: Any, names: tuple[str, ...], argument: str) -> str:
    for name in names:
        if name in (features or ()):
            return name
    known = ", ".join(features or ()) or "of no names"
    raise TrainingError("E411", f"{argument} has columns {known}, none of {', '.join(names)}")


def _samples(datasets: Any, rows: Any, columns: list[str]) -> Iterator[Sample]:
    for row in rows:
        value, label = (row[column] for column in columns)
        if not isinstance(label, int):
            raise TrainingError("E413", f"the labels are no class numbers but {label!r:.50}")
        name = value["path"] or f"one of label {label}"
        yield Sample(name, partial(_opened, datasets, value), label)


def _opened(datasets: Any, value: dict[str, Any]) -> PictureFile:
    if value["bytes"] is not None:
        return BytesIO(value["bytes"])
    path = Path(value["path"] or "")
    if path.is_file():
        return path
    image: PictureFile = datasets.Image().decode_example(value)  # fetches it
    return image


def _stream(datasets: Any, rows: Any, columns: list[str], part: str, request: Request) -> Stream:
    """Rows in an order that a seed gives: of the files, and within a buffer."""

    def samples(seed: int | None) -> Iterator[Sample]:
        order = rows if seed is None else rows.shuffle(seed=seed, buffer_size=BUFFER)
        return _samples(datasets, order, columns)

    about = (rows.info.splits or {}).get(part)
    count = about.num_examples if about is not None else 0
    if not count:  # nobody says it
        count = sum(1 for _ in rows.select_columns(columns[1:]))
    return Stream(samples, count, request, part)


def _arrays(
    datasets: Any, rows: Any, columns: list[str], request: Request, bad: dict[str, str]
) -> Arrays:
    shape = next(iter(request.inputs.values()))
    if len(rows) * prod(shape) > MOST_BYTES:
        raise TrainingError(
            "E411", f"{len(rows):,} pictures of {prod(shape):,} bytes are too many", "--stream"
        )
    pictures, labels = [], []
    for sample in _samples(datasets, rows, columns):
        try:
            pictures.append(picture(sample, request))
            labels.append(sample.label)
        except BadPictureError as error:
            bad[sample.name] = str(error)
    if not pictures:
        raise TrainingError("E410", "".join(left_out(bad)) or "the training part is empty")
    return Arrays((torch.stack(pictures),), torch.tensor(labels))
