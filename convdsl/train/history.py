"""What a run has come to, epoch by epoch."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convdsl.files import replace
from convdsl.train.problem import writing

Record = dict[str, Any]


@dataclass
class History:
    """One record for every epoch; what `convdsl.fit` returns.

    records: ``epoch`` (from 1), ``step``, ``train_loss``, ``val_loss``, ``val_accuracy`` where
    labels are classes, ``lr``, ``seconds``, ``images_per_second``. best: index of the best record,
    by accuracy and then by loss; None if no epoch had a finite loss. network: the trained network
    with the last weights. folder: of the run, if it has one. stopped: why it ended early, "" if
    it did not. notes: what the user should know of the data. data: what it was trained on.
    earlier: how many of the records are those of a run that this one resumed.
    """

    records: list[Record] = field(default_factory=list)
    best: int | None = None
    network: Any = None
    folder: Path | None = None
    stopped: str = ""
    notes: tuple[str, ...] = ()
    data: Any = None
    earlier: int = 0

    def add(self, record: Record) -> bool:
        """Takes in an epoch; whether it is the best so far. NaN never is."""
        self.records.append(record)
        score = _score(record)
        if score is not None and (
            self.best is None or score > (_score(self.records[self.best]) or ())
        ):
            self.best = len(self.records) - 1
            return True
        return False

    @property
    def last(self) -> Record:
        return self.records[-1]

    @property
    def accuracy(self) -> float:
        """Held-out accuracy after the last epoch; NaN where labels are no classes."""
        return float(self.last.get("val_accuracy", math.nan)) if self.records else math.nan

    @property
    def best_accuracy(self) -> float:
        """Held-out accuracy of the best epoch, which was chosen by it."""
        if self.best is None:
            return math.nan
        return float(self.records[self.best].get("val_accuracy", math.nan))

    def to_lines(self) -> str:
        """``metrics.jsonl``: a JSON object an epoch; numbers that are not finite are null."""
        finite = (
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
            for r in self.records
        )
        return "".join(json.dumps(record, allow_nan=False) + "\n" for record in finite)

    def write(self, path: Path) -> None:
        """All lines at once: a run that was killed leaves no half of one."""
        with writing(path):
            replace(path, self.to_lines().encode())


def _score(record: Mapping[str, Any]) -> tuple[float, float] | None:
    loss = record.get("val_loss", math.nan)
    if not math.isfinite(loss):
        return None
    return (record.get("val_accuracy", 0.0), -loss)


def line(record: Record, epochs: int) -> str:
    """An epoch as one line of a log."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    if "train_loss" in record:
        parts.append(f"loss {record['train_loss']:.4f}")
    if "val_loss" in record:
        parts.append(f"held-out loss {record['val_loss']:.4f}")
    if "val_accuracy" in record:
        parts.append(f"accuracy {record['val_accuracy']:.4f}")
    parts += [f"lr {record['lr']:.2g}", f"{record['images_per_second']:,.0f} images/s"]
    return "  ".join(parts)
