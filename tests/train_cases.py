"""What the tests of training share: a tiny network, data for it, and a run of a few steps."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import convdsl
from convdsl.train.checkpoint import load
from convdsl.train.history import History

TINY = "input 1@4x4\nnet Tiny = CONV(3) - RELU - DROPOUT(0.2) - FC(4), SOFTMAX\n"


def arrays(count: int = 40, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures (N, C, 4, 4) in 0..1 whose brightest quarter tells the class of four."""
    generator = torch.Generator().manual_seed(count)
    x = torch.rand(count, channels, 4, 4, generator=generator) / 2
    y = torch.arange(count) % 4
    for i, label in enumerate(y.tolist()):
        row, column = divmod(label, 2)
        x[i, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 0.5
    return x, y


def fit(out: Path | None = None, text: str = TINY, **options: Any) -> History:
    """Three epochs of four steps, and then some, unless ``options`` say otherwise."""
    given: dict[str, Any] = {
        "epochs": 3,
        "batch": 8,
        "progress": None,
        "tensorboard": False,
        "data": arrays(),
    }
    given |= options
    return convdsl.fit(convdsl.compile_text(text), out=out, **given)


def state(run: Path) -> dict[str, Any]:
    """The last checkpoint, without what differs between two equal runs: times."""
    found = load(run / "last")
    for records in (
        found["training"]["callbacks"]["Keeper"]["records"],
        [found["model"]["metrics"]],
    ):
        for record in records:
            record.pop("seconds", None)
            record.pop("images_per_second", None)
    return found


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))
