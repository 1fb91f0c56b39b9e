"""Several networks of one program and one split, each from a seed of its own."""

from collections.abc import Callable
from pathlib import Path

from convdsl.train.history import History
from convdsl.train.problem import TrainingError
from convdsl.train.trained import MEMBER


def train_members(
    folder: Path, count: int, seed: int, train: Callable[[Path, int, str], History]
) -> list[History]:
    """``train(folder, seed, name)`` for every member in turn, in folders of their own.

    Raises TrainingError if the folder is of a run that is no ensemble.
    """
    if (folder / "checkpoints").is_dir():
        raise TrainingError(
            "E421", f"{folder} holds a run of a single network", "choose another --out"
        )
    width = len(str(count))
    return [
        train(folder / f"{MEMBER}{number:0{width}}", seed + number - 1, f"member {number}/{count}")
        for number in range(1, count + 1)
    ]
