"""The table of a device: `convdsl.ir.choices.Choices` as JSON, written whole or not at all.

One file for a device, the versions whose kernels it is about, and the computing type. A table that
is torn, or of other versions, is no table: the static choices hold, and the next tuning writes it
anew.
"""

import importlib.metadata
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from convdsl._version import __version__
from convdsl.ir.choices import Choices
from convdsl.ir.tile import Tile
from convdsl.ops._tiles import VARIANTS
from convdsl.runtime.cache import cache_dir, write_atomically

#: of the form of the file
FORM = 1
#: tables that come with the package; the user's own add to them
SHIPPED = Path(__file__).parent / "tables"
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a table is about."""

    device: str
    dtype: str
    triton: str
    torch: str
    convdsl: str

    @property
    def file_name(self) -> str:
        """``nvidia-h200-bf16-triton3.6.0-torch2.11.0-convdsl0.1.0.json``"""
        device = re.sub(r"[^a-z0-9]+", "-", self.device.lower()).strip("-")
        versions = f"triton{self.triton}-torch{self.torch}-convdsl{self.convdsl}"
        return f"{device}-{self.dtype}-{versions}.json"


def subject_of(device: torch.device, dtype: torch.dtype) -> Subject:
    """Of a CUDA or ROCm device. Raises ValueError for a type that no kernel computes in."""
    if dtype not in NAMES:
        raise ValueError(f"dtype must be one of {', '.join(map(str, NAMES))}, got {dtype}")
    return Subject(
        torch.cuda.get_device_name(device),
        NAMES[dtype],
        importlib.metadata.version("triton"),
        torch.__version__.partition("+")[0],
        __version__,
    )


def choices_for(subject: Subject, *, library: bool = False) -> Choices:
    """What is known of the subject. library: with convolutions that the library does."""
    known = Choices()
    for folder in (SHIPPED, own_folder()):
        known |= read(folder / subject.file_name, subject)
    return known if library else Choices(known.tiles, known.apart)


def own_folder() -> Path:
    """Where tuning writes."""
    return cache_dir() / "tuned"


def read(path: Path, subject: Subject) -> Choices:
    """The table in a file; an empty one if there is none, or none that is about the subject."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["form"] != FORM or Subject(**document["subject"]) != subject:
            return Choices()
        tiles = {str(key): _tile(entry) for key, entry in document["tiles"].items()}
        apart, library = (frozenset(map(str, document[name])) for name in ("apart", "library"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Choices()
    return Choices(tiles, apart, library)


def _tile(entry: dict[str, Any]) -> Tile:
    """Raises ValueError or TypeError for what is no tile: numbers of it become code."""
    tile = Tile(**entry)
    if tile.variant not in VARIANTS:
        raise ValueError(f"variant is {tile.variant!r}")
    for field in fields(tile):
        if field.name == "variant":
            continue
        number = getattr(tile, field.name)
        least = 0 if field.name == "splits" else 1
        if type(number) is not int or not least <= number <= 1024:
            raise ValueError(f"{field.name} is {number!r}")
    for side in (tile.m, tile.n, tile.k, tile.warps, tile.splits or 1):
        if side & (side - 1):
            raise ValueError(f"{side} is no power of two")
    return tile


def write(path: Path, subject: Subject, choices: Choices) -> None:
    """Replace the table in one step. Raises OSError."""
    document = {
        "form": FORM,
        "subject": asdict(subject),
        "tiles": {key: asdict(tile) for key, tile in sorted(choices.tiles.items())},
        "apart": sorted(choices.apart),
        "library": sorted(choices.library),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(document, indent=1) + "\n")
