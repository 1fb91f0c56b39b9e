"""One run of Lightning's Trainer on a network and a data set, with what convdsl adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import torch

from convdsl._version import __version__
from convdsl.train import program
from convdsl.train.augment import check_kinds
from convdsl.train.batches import Batches
from convdsl.train.data.normalise import Normalisation, measure
from convdsl.train.data.parts import Data, Request
from convdsl.train.data.pictures import left_out
from convdsl.train.data.stream import Stream
from convdsl.train.history import History
from convdsl.train.keeper import InterruptedRun, Keeper, Storage
from convdsl.train.lightning import (
    EarlyStopping,
    EMAWeightAveraging,
    MisconfigurationException,
    SingleDeviceStrategy,
    pl,
)
from convdsl.train.lit import LitNetwork
from convdsl.train.memory import memory_advice
from convdsl.train.problem import TrainingError
from convdsl.train.progress import Progress
from convdsl.train.random_numbers import mixed
from convdsl.train.recipe import Recipe
from convdsl.train.resume import changed_settings, check_same
from convdsl.train.run_folder import RunFolder
from convdsl.train.sharded import Sharded


@dataclass(frozen=True)
class Place:
    """Where a run runs. devices: how many, or "auto" for all there are."""

    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    accelerator: str = "auto"


@dataclass(frozen=True)
class Setting:
    """What a run is made of, beside network, data and recipe.

    folder: None writes nothing. saved: the checkpoint to go on from, and its content. force: go
    on although it is of another program. streams: where to tell how it goes. name: stands before
    what is told. tensorboard: write its event files, where it is installed.
    """

    place: Place = Place()
    folder: RunFolder | None = None
    saved: tuple[Path, dict[str, Any]] | None = None
    force: bool = False
    streams: Sequence[TextIO] = ()
    name: str = ""
    tensorboard: bool = False


def is_lead() -> bool:
    """Of the processes of a run this is the one that writes."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


class _Loaders(pl.LightningDataModule):
    """The batches of both parts, once it is known which process this is."""

    def __init__(self, data: Data, recipe: Recipe, least: int) -> None:
        super().__init__()
        self.data, self.recipe, self.least = data, recipe, least

    def batches(self, train: bool, trainer: Any) -> Batches:
        """Those of one process of ``trainer``'s."""
        return Batches(
            self.data.train if train else self.data.test,
            self.recipe.batch,
            seed=mixed(self.recipe.seed, 1),
            shuffle=train,
            least=self.least,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def train_dataloader(self) -> Batches:
        return self.batches(True, self.trainer)

    def val_dataloader(self) -> Batches:
        return self.batches(False, self.trainer)


def run(lit: LitNetwork, data: Data, request: Request, recipe: Recipe, setting: Setting) -> History:
    """Train to the end. Raises TrainingError, and InterruptedRun when told to stop."""
    network, folder = lit.network, setting.folder
    kinds = data.augment if recipe.augment is None else recipe.augment
    shapes = list(request.inputs.values())
    channels = shapes[0][0] if len(shapes) == 1 and len(shapes[0]) == 3 else 0
    check_kinds(kinds, channels, bool(request.label[1]))
    model = _described(lit, data, request, recipe, setting)
    lit.normalisation = tuple(Normalisation.from_json(n) for n in model["normalisation"])
    lit.augment = kinds
    if setting.saved is not None:
        lit.renew = bool(changed_settings(setting.saved[1]["model"], model))
    history = History(folder=None if folder is None else folder.path, network=network, data=data)
    shown = Progress(setting.streams, recipe.epochs, recipe.batch, setting.name)
    keeper = Keeper(history, folder, model, len(data.train), recipe.save_every, shown.show)
    stopper = EarlyStopping("val_loss", patience=max(1, recipe.early_stop), check_finite=False)
    callbacks = [
        shown,
        keeper,
        *([stopper] if recipe.early_stop else []),
        *([EMAWeightAveraging(decay=recipe.ema)] if recipe.ema else []),
    ]
    board = folder if setting.tensorboard and find_spec("tensorboard") else None
    trainer = _trainer(recipe, setting.place, callbacks, board)
    loaders = _Loaders(data, recipe, _least(network, recipe, data, trainer.world_size))
    lit.at_once = _at_once(lit, recipe, trainer.strategy)
    lit.steps = recipe.epochs * len(loaders.batches(True, trainer))
    try:
        path = None if setting.saved is None else setting.saved[0]
        trainer.fit(lit, datamodule=loaders, ckpt_path=path)
    except RuntimeError as error:
        # on the CPU the error has no kind of its own
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise TrainingError("E431", *memory_advice(lit, recipe)) from error
        raise
    except SystemExit:  # how Lightning ends at a second Ctrl-C
        raise InterruptedRun("stopped at once") from None
    if not history.records and folder is not None:  # a forked process has made them
        keeper.load_state_dict(folder.latest()[1]["training"]["callbacks"]["Keeper"])
    parts = (data.train, data.test)
    bad = {name: why for p in parts if isinstance(p, Stream) for name, why in p.bad.items()}
    history.notes = (*data.notes, *left_out(bad))
    if recipe.early_stop and stopper.stopped_epoch:
        history.stopped = f"no better held-out loss for {recipe.early_stop} epochs"
    return history


def _at_once(lit: LitNetwork, recipe: Recipe, strategy: Any) -> bool:
    """Whether a step may be one CUDA graph: on one device, and no loss is scaled."""
    device = strategy.root_device.type
    alone = isinstance(strategy, SingleDeviceStrategy) and recipe.precision != "fp16"
    return alone and device == "cuda" and hasattr(lit.network, "training_step")


def _least(network: Any, recipe: Recipe, data: Data, world: int) -> int:
    """Samples a batch needs so that every process has enough. Raises TrainingError for too few."""
    least, layer = network.SMALLEST_BATCH
    size = min(recipe.batch, len(data.train))
    if size < least * world:
        of = f" on {world} devices" if world > 1 else ""
        raise TrainingError(
            "E416",
            f"{layer or 'training'} needs batches of at least {least * world} samples{of}, "
            f"got {size}",
            f"--batch {least * world} or more",
        )
    return int(least * world)


def _trainer(recipe: Recipe, place: Place, callbacks: list[Any], board: RunFolder | None) -> Any:
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("E416", "fp16 needs a GPU", "--precision bf16 runs here")
    torch.set_float32_matmul_precision("high" if recipe.precision == "tf32" else "highest")
    logger: Any = False
    if board is not None:
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(board.path, name="", version="tensorboard")
    try:
        return pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=place.accelerator,
            devices=place.devices,
            num_nodes=place.nodes,
            strategy=Sharded() if place.strategy == "fsdp" else place.strategy,
            precision="16-mixed" if recipe.precision == "fp16" else "32-true",
            gradient_clip_val=recipe.clip or None,
            deterministic=recipe.deterministic or None,
            callbacks=callbacks,
            plugins=[Storage()],
            logger=logger,
            log_every_n_steps=10,
            num_sanity_val_steps=0,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        if "can not run on your system" in str(error) or "invalid accelerator" in str(error):
            raise TrainingError(
                "E416", f"there is no accelerator {place.accelerator!r} here", "--accelerator auto"
            ) from error
        # Lightning's own words for devices and strategies
        raise TrainingError("E416", str(error).splitlines()[0]) from error


def _described(
    lit: LitNetwork, data: Data, request: Request, recipe: Recipe, setting: Setting
) -> dict[str, Any]:
    """What a checkpoint says of the model; on resuming it is compared with what it was."""
    recorded = None if lit.compiled is None else program.record(lit.compiled)
    if recorded is None and setting.folder is not None:
        raise TrainingError(
            "E416",
            "checkpoints hold the program, which a module does not have",
            "pass the .cnn file or convdsl.compile(..), or leave out= away",
        )
    model: dict[str, Any] = {
        "program": recorded,
        "digest": None if recorded is None else program.digest(recorded),
        "classes": list(data.classes),
        "recipe": recipe.to_json(),
        "frozen": [n for n, p in lit.network.named_parameters() if not p.requires_grad],
        "data": {
            "name": data.name,
            "train": len(data.train),
            "test": len(data.test),
            "request": request.choices(),
        },
        "versions": {"convdsl": __version__, "torch": torch.__version__},
    }
    if setting.saved is not None:
        before = setting.saved[1]["model"]
        check_same(before, model, setting.force)
        return {**model, "normalisation": before["normalisation"]}
    return {**model, "normalisation": [n.to_json() for n in measure(data.train)]}
