"""CIFAR-10 and CIFAR-100 in their binary form (https://www.cs.toronto.edu/~kriz/cifar.html).

A record is one label byte (two for CIFAR-100: coarse, fine) and 3,072 bytes, the red, green and
blue plane of 32x32 pixels. The Python form is pickle, which can run code, and is never read.
"""

from pathlib import Path

import numpy as np
import torch

from convdsl.train.data.parts import Arrays, Data, Request
from convdsl.train.data.suit import suited
from convdsl.train.problem import TrainingError, unreadable

PIXELS = 3 * 32 * 32
AUGMENT = ("shift", "flip")


def read_cifar10(argument: str, request: Request) -> Data:
    """data_batch_1.bin .. data_batch_5.bin and test_batch.bin. Raises TrainingError."""
    folder = _folder(argument, "cifar-10-batches-bin", "cifar10", "data_batch_1")
    train = _part([folder / f"data_batch_{i}.bin" for i in range(1, 6)], 1, 10)
    test = _part([folder / "test_batch.bin"], 1, 10)
    classes = _names(folder / "batches.meta.txt", 10)
    return Data(
        f"cifar10:{argument}", suited(train, request), suited(test, request), classes, AUGMENT
    )


def read_cifar100(argument: str, request: Request) -> Data:
    """train.bin and test.bin with their 100 fine labels. Raises TrainingError."""
    folder = _folder(argument, "cifar-100-binary", "cifar100", "train")
    train, test = (_part([folder / f"{name}.bin"], 2, 100) for name in ("train", "test"))
    classes = _names(folder / "fine_label_names.txt", 100)
    return Data(
        f"cifar100:{argument}", suited(train, request), suited(test, request), classes, AUGMENT
    )


def _folder(argument: str, inner: str, name: str, pickled: str) -> Path:
    """The folder, or the one of the archive's name within it."""
    folder = Path(argument)
    if not argument or not folder.is_dir():
        raise TrainingError(
            "E411", f"{argument or 'nothing'} is no folder", f"--data {name}:FOLDER"
        )
    for place in (folder, folder / inner):
        if (place / f"{pickled}.bin").is_file():
            return place
    for place in (folder, folder / inner.replace("-bin", "-py"), folder / "cifar-100-python"):
        if (place / pickled).is_file():
            raise TrainingError(
                "E411",
                f"{place} holds the Python form, which is pickle and could run code",
                "get the binary version: https://www.cs.toronto.edu/~kriz/cifar.html",
            )
    raise TrainingError(
        "E411", f"{folder} has no {pickled}.bin", "unpack the binary version into that folder"
    )


def _part(paths: list[Path], label_bytes: int, classes: int) -> Arrays:
    records = np.concatenate([_records(path, label_bytes) for path in paths])
    labels = records[:, label_bytes - 1]
    if len(labels) and labels.max() >= classes:
        raise TrainingError("E411", f"{paths[0]} has label {labels.max()} of {classes} classes")
    pictures = records[:, label_bytes:].reshape(-1, 3, 32, 32)
    return Arrays((torch.from_numpy(pictures.copy()),), torch.from_numpy(labels.astype(np.int64)))


def _records(path: Path, label_bytes: int) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    size = label_bytes + PIXELS
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    if not raw or len(raw) % size:
        raise TrainingError(
            "E411",
            f"{path} has {len(raw):,} bytes, not a multiple of {size:,}",
            "get it again: it is cut off or not the binary form",
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, size)


def _names(path: Path, count: int) -> tuple[str, ...]:
    """Class names of a text file that comes along, or numbers."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line for line in lines if line]
    return tuple(names) if len(names) == count else tuple(str(i) for i in range(count))
