"""A generated network as a LightningModule, for `fit` and for everybody's own Trainer."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convdsl.compiler import Network, compile
from convdsl.train.augment import Draw, augment
from convdsl.train.batches import Batch
from convdsl.train.data.normalise import Normalisation, as_float
from convdsl.train.finite import Finite
from convdsl.train.lightning import pl
from convdsl.train.optimizers import lay_out, make_optimizer, make_plateau, make_schedule, renewed
from convdsl.train.problem import TrainingError
from convdsl.train.random_numbers import mixed, seed_device
from convdsl.train.recipe import Recipe, make_recipe
from convdsl.train.score import Score
from convdsl.train.sharded import shard
from convdsl.train.smoothing import smoothed


class LitNetwork(pl.LightningModule):
    """Training and validation of a network; logs ``train_loss``, ``val_loss``, ``val_accuracy``.

        trainer.fit(convdsl.LitNetwork("networks/digits.cnn", lr=1e-3), loader, val_loader)

    network: a ``.cnn`` file, a compiled network or a generated module. recipe: settings, else
    made of ``settings`` (see `convdsl.train.recipe.Recipe`). normalisation: of each input, applied
    to every batch; augment: kinds of variation in training. A batch is (x, y), or (x1, .., y) for
    several inputs; uint8 is taken as pictures in 0..255. Raises TrainingError for settings that
    do not exist, and for a loss that is not finite.
    """

    def __init__(
        self,
        network: str | Path | Network | nn.Module,
        recipe: Recipe | None = None,
        normalisation: tuple[Normalisation, ...] = (),
        augment: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        super().__init__()
        self.recipe = recipe if recipe is not None else make_recipe(**settings)
        compiled = compile(network) if isinstance(network, str | Path) else network
        self.compiled = compiled if isinstance(compiled, Network) else None
        #: whose loss counts for held-out samples: that without label smoothing
        self.judge: Any = None
        if isinstance(compiled, Network):
            dtype = torch.bfloat16 if self.recipe.precision == "bf16" else torch.float32
            learning = smoothed(compiled, self.recipe.label_smoothing)
            self.network: Any = learning.module(dtype=dtype)
            if learning.graph.outputs != compiled.graph.outputs:
                self.judge = type(compiled.module(dtype=dtype))
        elif self.recipe.label_smoothing:
            raise TrainingError(
                "E416", "label smoothing is compiled in", "pass the .cnn file instead of a module"
            )
        else:
            self.network = compiled
        self.normalisation = normalisation
        self.augment = augment
        #: of the whole run; 0: the trainer knows
        self.steps = 0
        #: the run goes on with other settings than the checkpoint's
        self.renew = False
        #: a step is one call, `Network.training_step`, which clips and steps the optimiser itself
        self.at_once = False
        self._step: Any = None
        self.finite = Finite()
        self._score = Score()
        self._train_losses: list[Tensor] = []
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None

    def forward(self, *inputs: Tensor) -> Any:
        """Raw outputs of inputs as a data set has them: normalised here."""
        return self.network(*self.prepared(inputs))

    def predict(self, *inputs: Tensor) -> Any:
        """What the heads predict, in evaluation mode; for SOFTMAX, probabilities."""
        return self.network.predict(*self.prepared(inputs))

    def prepared(self, inputs: tuple[Tensor, ...], draw: Draw | None = None) -> list[Tensor]:
        """Bytes to 0..1, varied as ``draw`` says, normalised."""
        made = [as_float(x) for x in inputs]
        for i, one in enumerate(self.normalisation or ()):
            if draw is not None and self.augment and made[i].dim() == 4:
                made[i] = augment(made[i], self.augment, draw._replace(colour=one.colour))
            made[i] = one(made[i])
        if not self.normalisation and draw is not None and self.augment:
            made = [augment(x, self.augment, draw) if x.dim() == 4 else x for x in made]
        return made

    def configure_model(self) -> None:
        """Under a strategy that shares parameters out, share them."""
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh, self.network.dtype)

    def training_step(self, batch: Any, index: int) -> Tensor:
        """The mean loss of a batch. Random numbers are those of (seed, epoch, batch, process)."""
        recipe, epoch = self.recipe, self.current_epoch
        # nothing to save or restore: a resumed run draws what the whole one would have
        seed_device(self.device, mixed(recipe.seed, epoch, index, self.global_rank))
        batch = _batch(batch)
        draw = Draw(mixed(recipe.seed, epoch), batch.rows)
        inputs = self.prepared(batch.inputs, draw)
        if self.at_once and self._step is None:
            optimizer = self.trainer.optimizers[0]
            self._step = self.network.training_step(optimizer, clip=recipe.clip)
        loss: Tensor = (self._step or self.network)(*inputs, batch.labels)
        self.finite.watch(loss, self, inputs, batch.labels)
        self._train_losses.append(loss.detach() * batch.share)
        if self.trainer.progress_bar_callback is not None:
            self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return loss if batch.share == 1 else loss * batch.share

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self.at_once:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        if self.at_once:
            optimizer_closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def validation_step(self, batch: Any, index: int) -> None:
        batch = _batch(batch)
        if batch.share > 0:
            inputs = self.prepared(batch.inputs)
            self._score.add(self.network, inputs, batch.labels, self.judge)

    def on_validation_epoch_end(self) -> None:
        """Sums of all processes make the means that are logged."""
        sums = self._score.sums(self.device)
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        for name, value in Score.means(sums).items():
            self.log(f"val_{name}", value, prog_bar=True)
        self._score = Score()

    def on_train_epoch_end(self) -> None:
        if self._train_losses:
            loss = torch.stack(self._train_losses).mean()
            self._train_losses = []
            self.finite.check()
            if self.trainer.world_size > 1:
                loss = self.trainer.strategy.reduce(loss, reduce_op="mean")
            self.log("train_loss", loss)
        if self._plateau is not None and "val_loss" in self.trainer.callback_metrics:
            self._plateau.step(self.trainer.callback_metrics["val_loss"].item())

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.recipe)
        if self.recipe.schedule == "plateau":
            # stepped here: Lightning would do it only after a checkpoint of the epoch is written
            self._plateau = make_plateau(optimizer)
            return optimizer
        # asking the trainer makes it forget the place in the data that a checkpoint names
        steps = self.steps or int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(optimizer, self.recipe, steps)
        if schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = torch.stack(self._train_losses or [torch.zeros((), device=self.device)])
        # a row for each process, which alone knows its own
        rows: Any = self.all_gather(losses)
        rows = rows.view(-1, len(losses))[:, : len(self._train_losses)]
        checkpoint["lit"] = {"train_losses": rows}
        if self._plateau is not None:
            checkpoint["lit"]["plateau"] = self._plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        mine = checkpoint.get("lit", {})
        rows = mine.get("train_losses", torch.zeros(1, 0))
        same = len(rows) == self.trainer.world_size
        self._train_losses = list(rows[self.global_rank] if same else rows.mean(0))
        self._waiting = mine.get("plateau")

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            lay_out(optimizer)
            if self.renew:
                made = renewed(optimizer, self.network, self.recipe, self.steps, self.global_step)
                for config in self.trainer.lr_scheduler_configs:
                    config.scheduler = made or config.scheduler
        # schedules are made after a checkpoint is loaded
        waiting = getattr(self, "_waiting", None)
        if self._plateau is not None and waiting is not None:
            self._plateau.load_state_dict(waiting)


def _batch(batch: Any) -> Batch:
    """Ours as it is; (x, .., y) of another loader with rows counted from 0."""
    if isinstance(batch, Batch):
        return batch
    *inputs, labels = batch
    rows = torch.arange(len(labels), device=labels.device)
    return Batch(tuple(inputs), labels, rows, 1.0)
