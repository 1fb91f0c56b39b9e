"""The folder of a run: its checkpoints, the best of them, and one run at a time.

runs/digits-1/
  checkpoints/step-000000638/  the one before the last
  checkpoints/step-000000660/  the last
  checkpoints/step-000000572/  the best epoch's
  best -> checkpoints/step-000000572
  last -> checkpoints/step-000000660
  metrics.jsonl  tensorboard/  summary.json  curves.png  confusion.png  report.html
"""

import fcntl
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convdsl.train.checkpoint import load
from convdsl.train.problem import TrainingError, writing

CHECKPOINTS = "checkpoints"
#: how many of the latest are kept, beside the best
KEPT = 2


class RunFolder:
    """Names and finds checkpoints in the folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS

    def place(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps goes."""
        return self.checkpoints / f"step-{step:09}"

    def found(self) -> list[Path]:
        """Checkpoints, the oldest first; half-written ones have other names."""
        return sorted(self.checkpoints.glob("step-*"))

    def latest(self) -> tuple[Path, dict[str, Any]]:
        """The newest that is whole, read. Raises TrainingError with the reason if there is none."""
        problem: TrainingError | None = None
        for folder in reversed(self.found()):
            try:
                return folder, load(folder)
            except TrainingError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        raise TrainingError("E421", f"{self.path} has no checkpoint to resume from")

    def point(self, name: str, folder: Path) -> None:
        """Let the link ``name`` show a checkpoint, in one step."""
        temporary = self.path / f".{name}.{secrets.token_hex(4)}.tmp"
        with writing(self.path):
            temporary.symlink_to(Path(CHECKPOINTS, folder.name))
            temporary.replace(self.path / name)

    def tidy(self, best: str | None) -> None:
        """Remove all checkpoints but the latest two and the best, and what a crash left behind."""
        for folder in self.found()[:-KEPT]:
            if folder.name != best:
                shutil.rmtree(folder, ignore_errors=True)
        for rest in self.checkpoints.glob(".*.tmp"):
            shutil.rmtree(rest, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time. Raises TrainingError if another has it, or it cannot be written."""
        with writing(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise TrainingError(
                    "E421",
                    f"another run is training in {self.path}",
                    "wait for it or choose another --out",
                ) from None
            yield


def fresh(parent: Path, name: str) -> Path:
    """``parent/name-1``, or the next number that is free."""
    number = 1
    while (path := parent / f"{name}-{number}").exists():
        number += 1
    return path


def checkpoint_of(path: Path) -> Path:
    """A checkpoint, or the best (else the latest) of a run's folder. Raises TrainingError."""
    if (path / "checkpoint.json").is_file():
        return path.resolve()
    if (path / CHECKPOINTS).is_dir():
        best = path / "best"
        return (
            best.resolve() if (best / "checkpoint.json").is_file() else RunFolder(path).latest()[0]
        )
    what = "is no checkpoint and no run's folder" if path.exists() else "does not exist"
    raise TrainingError("E420", f"{path} {what}")
