"""IDX files, plain or gzipped: MNIST and its kin (http://yann.lecun.com/exdb/mnist).

A header of two zero bytes, a type byte and a rank byte, big-endian 32-bit sizes, the numbers.
Nothing is allocated before the sizes were compared with the length of the file, and no more is
unpacked than the header promises.
"""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Data, Request
from convdsl.train.data.suit import suited
from convdsl.train.problem import TrainingError, unreadable

#: what a file may hold once unpacked
MOST_BYTES = 1 << 33
UNSIGNED_BYTE = 0x08
_PARTS = {"train": "train", "test": "t10k"}


def read_idx_folder(argument: str, request: Request) -> Data:
    """The four files of MNIST in a folder. Raises TrainingError."""
    folder = Path(argument)
    if not argument or not folder.is_dir():
        raise TrainingError("E411", f"{argument or 'nothing'} is no folder", "--data mnist:FOLDER")
    parts = {name: _part(folder, start) for name, start in _PARTS.items()}
    most = int(max(part.labels.max() for part in parts.values()))
    classes = tuple(str(number) for number in range(max(most + 1, 10)))
    train, test = (suited(parts[name], request) for name in _PARTS)
    return Data(f"mnist:{argument}", train, test, classes, ("shift",))


def _part(folder: Path, start: str) -> Arrays:
    images, labels = (_find(folder, start, kind) for kind in ("images", "labels"))
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if len(x) != len(y):
        raise TrainingError(
            "E411", f"{images.name} has {len(x):,} pictures, {labels.name} {len(y):,} labels"
        )
    if not len(x):
        raise TrainingError("E410", f"{images} holds no pictures")
    return Arrays((x[:, None],), y.long())


def _find(folder: Path, start: str, kind: str) -> Path:
    rank = {"images": 3, "labels": 1}[kind]
    stems = (f"{start}-{kind}-idx{rank}-ubyte", f"{start}-{kind}.idx{rank}-ubyte")
    for name in (*stems, *(f"{stem}.gz" for stem in stems)):
        if (folder / name).is_file():
            return folder / name
    raise TrainingError(
        "E411",
        f"{folder} has no file {stems[0]}, plain or .gz",
        "put the four files of MNIST into one folder",
    )


def read_idx(path: Path, rank: int) -> Tensor:
    """The unsigned bytes of one file, of ``rank`` axes. Raises TrainingError."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
            return _read(file, path, rank, None if packed else path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TrainingError("E411", f"{path} is damaged: {error}", "get it again") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _read(file: BinaryIO, path: Path, rank: int, length: int | None) -> Tensor:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise TrainingError(
            "E411", f"{path} is no IDX file: it starts with {head.hex() or 'nothing'}"
        )
    if head[2] != UNSIGNED_BYTE:
        raise TrainingError("E411", f"{path} holds numbers of type 0x{head[2]:02x}, not bytes")
    if head[3] != rank:
        what = {1: "labels", 3: "pictures"}
        raise TrainingError(
            "E411",
            f"{path} has {head[3]} axes instead of {rank}",
            f"put a file of {what.get(rank, 'such numbers')} here",
        )
    sizes = np.frombuffer(_exactly(file, 4 * rank, path), dtype=">u4").astype(object)
    count = prod(int(size) for size in sizes)
    if count > MOST_BYTES or (length is not None and count + 4 + 4 * rank != length):
        said = "x".join(str(size) for size in sizes)
        raise TrainingError(
            "E411",
            f"{path} says it holds {said} bytes, which does not fit its length",
            "get it again: it is cut off or not what its name says",
        )
    numbers = np.frombuffer(bytearray(_exactly(file, count, path)), dtype=np.uint8)
    if file.read(1):
        raise TrainingError("E411", f"{path} goes on after its last number", "get it again")
    return torch.from_numpy(numbers).reshape([int(size) for size in sizes])


def _exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    """``count`` bytes, unpacked a piece at a time so that a lie about the size costs nothing."""
    pieces, left = [], count
    while left and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise TrainingError("E411", f"{path} ends {left:,} bytes too early", "get it again")
    return b"".join(pieces)
