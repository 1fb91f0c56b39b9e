"""How a run is going: a bar on a terminal, one line an epoch elsewhere."""

from collections.abc import Sequence
from typing import Any, TextIO

from tqdm import tqdm

from convdsl.report.terminal import Style
from convdsl.train.history import Record, line
from convdsl.train.lightning import Callback, pl


class Progress(Callback):
    """Writes to ``streams``; ``name`` stands before everything, such as a member of an ensemble."""

    def __init__(self, streams: Sequence[TextIO], epochs: int, batch: int, name: str = "") -> None:
        self.streams, self.epochs, self.batch = streams, epochs, batch
        self.name = f"{name}: " if name else ""
        self._bars: list[Any] = []
        self._last = ""

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not trainer.is_global_zero:
            return
        self._bars = [
            tqdm(
                total=self.epochs * int(trainer.num_training_batches),
                initial=trainer.global_step,
                file=stream,
                # tqdm hides the bar on a terminal that says it has no columns and lines
                ncols=Style.of(stream).width,
                nrows=24,
                leave=False,
                bar_format="{desc} |{bar}| {percentage:3.0f}%{postfix}  ETA {remaining}",
            )
            for stream in self.streams
            if stream.isatty()
        ]

    def on_train_batch_end(
        self,
        trainer: "pl.Trainer",
        pl_module: "pl.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        for bar in self._bars:
            bar.update()
            # what follows is a wait for the device: not at every step
            if bar.n % 8 == 0 and outputs is not None:
                self._tell(bar, trainer.current_epoch + 1, float(outputs["loss"]), refresh=False)

    def _tell(self, bar: Any, epoch: int, loss: float, refresh: bool) -> None:
        rate = (bar.format_dict["rate"] or 0.0) * self.batch
        bar.ncols = Style.of(bar.fp).width
        bar.set_description_str(f"{self.name}epoch {epoch}/{self.epochs}", refresh=False)
        bar.set_postfix_str(f"loss {loss:.4f}{self._last}  {rate:,.0f} images/s", refresh)

    def show(self, record: Record) -> None:
        """The epoch is over."""
        if "val_accuracy" in record:
            self._last = f"  accuracy {record['val_accuracy']:.4f}"
        for bar in self._bars if "train_loss" in record else ():
            self._tell(bar, int(record["epoch"]), record["train_loss"], refresh=True)
        for stream in self.streams:
            if not stream.isatty():
                stream.write(f"{self.name}{line(record, self.epochs)}\n")
                stream.flush()

    def on_exception(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException
    ) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        for bar in self._bars:
            bar.close()
        self._bars = []
