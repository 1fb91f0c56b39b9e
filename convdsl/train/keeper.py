"""The callback that records epochs, keeps checkpoints and stops a run that is interrupted.

Lightning decides what a checkpoint must hold for the run to go on, and puts it back; `Storage`
is how it is written: as `checkpoint` says, without pickle.
"""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from convdsl.train.checkpoint import load, save
from convdsl.train.finite import HELP
from convdsl.train.history import History, Record
from convdsl.train.lightning import CheckpointCallback, CheckpointIO, pl
from convdsl.train.problem import TrainingError
from convdsl.train.run_folder import RunFolder

#: Lightning's names of the network's tensors begin with it
PREFIX = "network."
MODEL = "convdsl_model"


class InterruptedRun(Exception):  # noqa: N818  (no error: the user asked for it)
    """The run was asked to stop and has done so; the text says where it can go on."""


class Storage(CheckpointIO):
    """Lightning's checkpoints as folders of `convdsl.train.checkpoint`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        if MODEL not in checkpoint:  # weights on their way back from a forked process
            return save(Path(path), checkpoint, None, None)
        rest = dict(checkpoint)
        state = rest.pop("state_dict")
        weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
        return save(Path(path), weights, rest.pop(MODEL), rest)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        found = load(Path(path))
        if found["model"] is None:
            return dict(found["weights"])
        state = {PREFIX + name: tensor for name, tensor in found["weights"].items()}
        return {**found["training"], "state_dict": state}

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)


class Keeper(CheckpointCallback):
    """Records each epoch in ``history``, and saves checkpoints into ``folder`` if there is one.

    model: what is stored beside the weights. samples: of an epoch, for the speed. every: steps
    between checkpoints within an epoch, 0 for none. show: called with the record of each epoch.
    """

    def __init__(
        self,
        history: History,
        folder: RunFolder | None,
        model: dict[str, Any],
        samples: int,
        every: int = 0,
        show: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.history, self.folder, self.model = history, folder, model
        self.samples, self.every, self.show = samples, every, show
        self._asked = threading.Event()
        self._handlers: dict[int, Any] = {}
        self._begun = self._trained = 0.0
        self._batches = 0

    # what Lightning stores for us

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.history.records, "best": self.history.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history.records = list(state_dict["records"])
        self.history.best = state_dict["best"]
        self.history.earlier = len(self.history.records)

    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        done = self.history.last if self.history.records else {}
        checkpoint[MODEL] = {**self.model, "step": trainer.global_step, "metrics": done}

    # interrupts

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._begin()
        if self.folder is not None and trainer.is_global_zero:
            self.history.write(self.folder.path / "metrics.jsonl")
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():  # the second time there is no waiting
            raise KeyboardInterrupt
        self._asked.set()

    def on_exception(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")  # Lightning does not, and signals are the user's

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _stop_if_asked(self, trainer: "pl.Trainer", save_now: bool) -> None:
        asked = self._asked.is_set()
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        if not asked:
            return
        if save_now:
            self.save(trainer)
        step = trainer.global_step
        raise InterruptedRun(f"stopped after step {step} of epoch {trainer.current_epoch + 1}")

    # the run

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._begin()

    def _begin(self) -> None:
        """An epoch, or what is left of one that is resumed."""
        self._begun = time.perf_counter()
        self._batches = 0

    def on_validation_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._trained = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._batches += 1
        # the last one's checkpoint comes at the end of the epoch, with its record
        if batch_idx + 1 >= trainer.num_training_batches:
            return
        due = bool(self.every) and trainer.global_step % self.every == 0
        if due:
            self.save(trainer)
        self._stop_if_asked(trainer, save_now=not due)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        now = time.perf_counter()
        trained = max(1e-9, (self._trained if self._trained > self._begun else now) - self._begun)
        record: Record = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        for name in ("train_loss", "val_loss", "val_accuracy"):
            if name in trainer.callback_metrics:
                record[name] = float(trainer.callback_metrics[name])
        record["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        record["seconds"] = round(now - self._begun, 6)
        seen = self.samples * self._batches / max(1, int(trainer.num_training_batches))
        record["images_per_second"] = round(seen / trained, 1)
        best = self.history.add(record)
        if self.folder is not None:
            self.save(trainer, best)
            if trainer.is_global_zero:
                self.history.write(self.folder.path / "metrics.jsonl")
        if trainer.is_global_zero:
            self.show(record)
        self._stop_if_asked(trainer, save_now=False)

    def save(self, trainer: "pl.Trainer", best: bool = False) -> None:
        """A checkpoint of this step, and links to it. Raises TrainingError."""
        if self.folder is None:
            return
        _refuse_broken_weights(trainer)
        place = self.folder.place(trainer.global_step)
        # the first process may have written it before the others look
        if not trainer.strategy.broadcast(place.exists()):
            trainer.save_checkpoint(place)
        if trainer.is_global_zero:
            self.folder.point("last", place)
            if best:
                self.folder.point("best", place)
            step = (
                None
                if self.history.best is None
                else self.history.records[self.history.best]["step"]
            )
            self.folder.tidy(None if step is None else self.folder.place(step).name)


def _refuse_broken_weights(trainer: "pl.Trainer") -> None:
    """The last good checkpoint stays: weights that are not finite are never saved."""
    named = trainer.lightning_module.named_parameters()
    mine = ((name, p.to_local() if isinstance(p, DTensor) else p) for name, p in named)
    broken = next((name for name, p in mine if not bool(torch.isfinite(p).all())), None)
    # each process may have its own share of them: all stop together
    if trainer.strategy.reduce_boolean_decision(broken is not None, all=False):
        name = "" if broken is None else f" {broken.removeprefix(PREFIX)}"
        raise TrainingError(
            "E430",
            f"the weights{name} are no longer finite at step {trainer.global_step}",
            HELP,
        )
