"""`convdsl train`: from a program and data to a trained, checkpointed model."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convdsl.cli.outcome import Outcome
from convdsl.cli.program import STDIN, compile_program, program_options
from convdsl.cli.training import in_words, streams, table

if TYPE_CHECKING:
    from convdsl.compiler import Network
    from convdsl.train.history import History

_F = TypeVar("_F", bound=Callable[..., Any])
_OPTIMIZERS = click.Choice(["sgd", "adam", "adamw", "rmsprop"])
_SCHEDULES = click.Choice(["plateau", "step", "cosine", "onecycle", "constant"])
_PRECISIONS = click.Choice(["fp32", "tf32", "bf16", "fp16"])

#: settings of `convdsl.train.recipe.Recipe`; what is not given is left to the recipe
_SETTINGS = (
    click.option("--epochs", type=int, help="Passes over the data.  [default: 30]"),
    click.option("--batch", type=int, help="Samples a step, over all devices.  [default: 64]"),
    click.option("--lr", type=float, help="Greatest learning rate.  [default: by optimizer]"),
    click.option("--optimizer", type=_OPTIMIZERS, help="[default: adamw]"),
    click.option("--momentum", type=float, help="Of SGD; beta1 of Adam.  [default: 0.9]"),
    click.option("--weight-decay", type=float, help="Of weights, not biases.  [default: 0.05]"),
    click.option("--schedule", type=_SCHEDULES, help="Of the learning rate.  [default: onecycle]"),
    click.option("--warmup", type=float, metavar="EPOCHS", help="Epochs in which it rises."),
    click.option("--precision", type=_PRECISIONS, help="What is computed in.  [default: fp32]"),
    click.option(
        "--augment",
        metavar="KINDS",
        help="Of shift,flip,color,crop, or none.  [default: by data set]",
    ),
    click.option(
        "--label-smoothing", type=float, help="Share spread over all classes.  [default: 0.1]"
    ),
    click.option("--ema", type=float, metavar="DECAY", help="Average the weights, such as 0.999."),
    click.option("--early-stop", type=int, metavar="EPOCHS", help="Stop after so many no better."),
    click.option("--clip", type=float, help="Greatest norm of the gradient, 0: any.  [default: 1]"),
    click.option("--seed", type=int, help="Of weights, order and split.  [default: 0]"),
    click.option("--deterministic", is_flag=True, default=None, help="Refuse what is not."),
    click.option("--save-every", type=int, metavar="STEPS", help="Checkpoints within an epoch."),
)


def _settings(command: _F) -> _F:
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.command(short_help="Train a .cnn file on a data set.")
@click.argument("file", type=click.Path())
@click.option(
    "--data",
    required=True,
    metavar="DATA",
    help="digits, mnist:DIR, cifar10:DIR, cifar100:DIR, folder:DIR, npz:FILE or hf:NAME.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--force", is_flag=True, help="Resume though program or settings changed.")
@click.option("--preset", type=click.Choice(["alexnet"]), help="A recipe of the lectures.")
@_settings
@click.option("--holdout", type=float, default=0.25, show_default=True, help="Share held out.")
@click.option("--resize", is_flag=True, help="Scale pictures to the network's input.")
@click.option("--pad", is_flag=True, help="Put black margins around smaller pictures.")
@click.option("--stream", is_flag=True, help="Read hf:NAME as it is needed.")
@click.option("--init", metavar="WEIGHTS", help="A run, a checkpoint, a .safetensors file.")
@click.option("--freeze", "frozen", metavar="NAME", multiple=True, help="Such as 'features.*'.")
@click.option("--replace-head", is_flag=True, help="The last layer learns the data's classes.")
@click.option("--ensemble", type=click.IntRange(1, 1000), default=1, metavar="N")
@click.option("--devices", default="1", show_default=True, help="How many, or auto for all.")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--strategy", type=click.Choice(["auto", "ddp", "fsdp"]), default="auto", show_default=True
)
@click.option("--accelerator", default="auto", show_default=True, help="cpu, cuda, mps or auto.")
@click.option("--tensorboard/--no-tensorboard", default=True, help="Write its event files too.")
@program_options
@in_words
def train(
    file: str,
    data: str,
    out: Path | None,
    resume: bool,
    force: bool,
    preset: str | None,
    holdout: float,
    resize: bool,
    pad: bool,
    stream: bool,
    init: str | None,
    frozen: Sequence[str],
    replace_head: bool,
    ensemble: int,
    devices: str,
    nodes: int,
    strategy: str,
    accelerator: str,
    tensorboard: bool,
    shape: str | None,
    lets: Sequence[str],
    defaults: Sequence[str],
    strict: bool,
    **settings: Any,
) -> Outcome:
    """Train the .cnn FILE on DATA and keep checkpoints, metrics and a report in --out.

    Ctrl-C stops with a checkpoint that --resume goes on from, bit by bit as if nothing had
    happened. Exit code 0: trained, 1: something to mend, 2: wrong use, 130: interrupted.
    """
    from convdsl.train.fit import fit
    from convdsl.train.run import Place
    from convdsl.train.run_folder import fresh

    if resume and out is None:
        raise click.UsageError("--resume needs the folder of the run: --out DIR.")
    if devices != "auto" and not (devices.isdecimal() and int(devices)):
        raise click.BadParameter("a number from 1 on, or auto", param_hint="'--devices'")
    network = compile_program(file, None, shape, lets, defaults, strict)
    if replace_head:
        network = _replaced(network, data, holdout, stream)
    name = Path(file).stem if file != STDIN else network.name.lower()
    folder = out or fresh(Path("runs"), f"{name}-{data.partition(':')[0]}")
    given = {name: value for name, value in settings.items() if value is not None}
    seed = given.pop("seed", 0)
    place = Place("auto" if devices == "auto" else int(devices), nodes, strategy, accelerator)

    def one(folder: Path, seed_of_one: int, name: str = "") -> "History":
        return fit(
            network,
            data,
            out=folder,
            # of an ensemble some members may not have begun
            resume=resume and (ensemble == 1 or (folder / "checkpoints").is_dir()),
            force=force,
            preset=preset,
            place=place,
            init=init,
            frozen=frozen,
            fresh_head=replace_head,
            holdout=holdout,
            split_seed=seed,
            resize=resize,
            pad=pad,
            stream=stream,
            progress=streams(),
            name=name,
            tensorboard=tensorboard,
            seed=seed_of_one,
            **given,
        )

    started = time.perf_counter()
    return _trained(folder, ensemble, seed, one, started)


def _trained(
    folder: Path, ensemble: int, seed: int, one: Callable[..., "History"], started: float
) -> Outcome:
    from convdsl.train.ensemble import train_members
    from convdsl.train.keeper import InterruptedRun
    from convdsl.train.run import is_lead
    from convdsl.train.summary import conclude, conclude_ensemble

    try:
        histories = (
            train_members(folder, ensemble, seed, one) if ensemble > 1 else [one(folder, seed)]
        )
    except InterruptedRun as stop:
        raise InterruptedRun(f"{stop}; go on with --out {folder} --resume") from None
    if not is_lead():
        return Outcome()
    seconds = time.perf_counter() - started
    data = histories[0].data
    if ensemble > 1:
        return Outcome(table(conclude_ensemble(folder, histories, data, seconds)))
    return Outcome(table(conclude(histories[0], data, seconds)))


def _replaced(network: "Network", data: str, holdout: float, stream: bool) -> "Network":
    """The network with as many scores as the data has classes."""
    from convdsl.train.head import class_count, replace_head

    return replace_head(network, class_count(network, data, holdout, stream))
