"""A folder of pictures with a folder for each class.

``FOLDER/class/picture``, or the same within ``train`` and within ``test`` or ``val``. Hidden
entries, files that are no pictures and empty classes of junk are passed over; pictures that
cannot be decoded are left out and named. What fits into memory is decoded once, the rest whenever
it is needed.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Data, Part, Request, Shape
from convdsl.train.data.pictures import ENDINGS, BadPictureError, decode, left_out, mode_for
from convdsl.train.data.split import split
from convdsl.train.problem import TrainingError, unreadable

#: decoded pictures of a data set that are kept in memory
MOST_BYTES = 1 << 31
AUGMENT = ("shift", "flip")
_JUNK = {"__macosx", "lost+found"}

Listing = list[tuple[Path, int]]


@dataclass(frozen=True)
class Files:
    """Pictures that stay in their files; one that cannot be decoded stands back for the next."""

    paths: tuple[Path, ...]
    labels: Tensor
    shape: Shape
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Tensor) -> tuple[Tensor, ...]:
        with ThreadPoolExecutor(_threads()) as pool:
            pictures = list(pool.map(self._picture, rows.tolist()))
        return (torch.stack(pictures) if pictures else torch.empty(0, *self.shape),)

    def _picture(self, row: int) -> Tensor:
        """That of ``row``, or of the next row of its class whose picture is whole."""
        count, why = len(self.paths), ""
        for other in ((row + step) % count for step in range(count)):
            if self.labels[other] == self.labels[row]:
                try:
                    return decode(self.paths[other], self.shape)
                except BadPictureError as error:
                    why = f"{self.paths[other]}: {error}"
        raise TrainingError("E411", f"no picture of a class can be decoded any more: {why}")


def read_folder(argument: str, request: Request) -> Data:
    """The pictures in the network's size. Raises TrainingError."""
    root = Path(argument)
    if not argument or not root.is_dir():
        raise TrainingError("E411", f"{argument or 'nothing'} is no folder", "--data folder:FOLDER")
    shape = next(iter(request.inputs.values()))
    mode_for(shape)
    train_root = root / "train"
    held = next((root / name for name in ("test", "val", "valid") if (root / name).is_dir()), None)
    if train_root.is_dir() and held is not None:
        classes = _classes(train_root)
        if (others := _classes(held)) != classes:
            raise TrainingError("E411", _difference(classes, others, held))
        listings = [_listing(train_root, classes), _listing(held, classes)]
    else:
        root = train_root if train_root.is_dir() else root
        classes = _classes(root)
        listing = _listing(root, classes)
        labels = torch.tensor([label for _, label in listing])
        listings = [[listing[i] for i in part.tolist()] for part in split(labels, request)]
    bad: dict[str, str] = {}
    fits = sum(map(len, listings)) * prod(shape) <= MOST_BYTES
    train, test = (_part(listing, shape, fits, bad) for listing in listings)
    return Data(f"folder:{argument}", train, test, classes, AUGMENT, left_out(bad))


def _classes(root: Path) -> tuple[str, ...]:
    """Names of the folders that hold pictures, sorted; a visible folder without any is an error."""
    try:
        folders = sorted(
            entry.name
            for entry in root.iterdir()
            if entry.is_dir() and not entry.name.startswith(".") and entry.name.lower() not in _JUNK
        )
    except OSError as error:
        raise unreadable(root, error) from error
    if not folders:
        raise TrainingError(
            "E410",
            f"{root} has no folders, one for each class",
            "FOLDER/cat/1.png, FOLDER/dog/2.png",
        )
    for name in folders:
        if next(iter(_pictures(root / name)), None) is None:
            raise TrainingError(
                "E410", f"the class {name!r} in {root} has no pictures", "remove its folder"
            )
    return tuple(folders)


def _pictures(folder: Path) -> Iterable[Path]:
    """Pictures below ``folder`` in a fixed order; links to folders are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.lower() not in _JUNK)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS:
                yield Path(place, name)


def _listing(root: Path, classes: tuple[str, ...]) -> Listing:
    return [(path, i) for i, name in enumerate(classes) for path in _pictures(root / name)]


def _part(listing: Listing, shape: Shape, fits: bool, bad: dict[str, str]) -> Part:
    paths, labels = [path for path, _ in listing], torch.tensor([label for _, label in listing])
    if not fits:
        return Files(tuple(paths), labels, shape)

    def attempt(path: Path) -> Tensor | None:
        try:
            return decode(path, shape)
        except BadPictureError as error:
            bad[str(path)] = str(error)
            return None

    with ThreadPoolExecutor(_threads()) as pool:
        pictures = list(pool.map(attempt, paths))
    whole = [i for i, picture in enumerate(pictures) if picture is not None]
    if not whole:
        raise TrainingError("E410", f"no picture can be decoded; {left_out(bad)[0]}")
    return Arrays((torch.stack([p for p in pictures if p is not None]),), labels[whole])


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _difference(classes: tuple[str, ...], others: tuple[str, ...], held: Path) -> str:
    missing = [name for name in classes if name not in others]
    extra = [name for name in others if name not in classes]
    parts = [f"lacks the classes {', '.join(missing)}"] if missing else []
    parts += [f"has classes that are not trained: {', '.join(extra)}"] if extra else []
    return f"{held} {' and '.join(parts)}"
