"""``convdsl.fit``: a network and data in, a trained network and its history out."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from convdsl.compiler import Network, compile
from convdsl.train.data.parts import Data, Request
from convdsl.train.data.read import read
from convdsl.train.data.split import split_arrays
from convdsl.train.data.suit import suited
from convdsl.train.guards import checked
from convdsl.train.history import History
from convdsl.train.lightning import quietly
from convdsl.train.lit import LitNetwork
from convdsl.train.problem import TrainingError
from convdsl.train.random_numbers import mixed
from convdsl.train.recipe import make_recipe
from convdsl.train.run import Place, Setting, is_lead, run
from convdsl.train.run_folder import RunFolder
from convdsl.train.score import first_head
from convdsl.train.transfer import freeze, initialise


def fit(
    network: str | Path | Network | nn.Module,
    data: str | Data | Sequence[Any],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    preset: str | None = None,
    place: Place | None = None,
    init: str | Path | None = None,
    frozen: Sequence[str] = (),
    fresh_head: bool = False,
    holdout: float = 0.25,
    split_seed: int | None = None,
    resize: bool = False,
    pad: bool = False,
    stream: bool = False,
    progress: TextIO | Sequence[TextIO] | None = sys.stderr,
    name: str = "",
    tensorboard: bool = True,
    **settings: Any,
) -> History:
    """Train, and evaluate after every epoch on samples that are held out.

    network: a ``.cnn`` file, a compiled network or a generated module. data: what ``--data``
    takes, such as "digits" or "mnist:FOLDER", a `Data`, or arrays (x, y). out: folder for
    checkpoints and metrics; None writes nothing. resume: go on with the run in ``out``; force:
    even if program or settings changed. preset, settings: see `Recipe`. init: weights to start
    from, see `transfer`; frozen: patterns of parameters that stay as they are; fresh_head: the
    last layer starts afresh. holdout, split_seed: which share is held out where the data does not
    say it, by default by ``seed``; resize, pad: bring pictures to the network's size; stream:
    read ``hf:NAME`` as it is needed. progress: where to tell how it goes, a bar on a terminal.
    tensorboard: write its event files into ``out`` too. Raises TrainingError for what the user
    can mend, CompileError, and InterruptedRun when told to stop.
    """
    quietly()
    recipe = make_recipe(preset, **settings)
    compiled = compile(network) if isinstance(network, str | Path) else network
    torch.manual_seed(mixed(recipe.seed))
    lit = LitNetwork(compiled, recipe)
    request = request_for(
        lit.network,
        holdout=holdout,
        split_seed=recipe.seed if split_seed is None else split_seed,
        resize=resize,
        pad=pad,
        stream=stream,
    )
    found = _data(data, request)
    if init is not None:
        initialise(lit.network, init, fresh_head=fresh_head)
    freeze(lit.network, frozen)
    streams = [] if progress is None else progress if isinstance(progress, Sequence) else [progress]
    with ExitStack() as stack:
        folder = None if out is None else RunFolder(Path(out))
        saved = None
        if folder is not None and is_lead():
            stack.enter_context(folder.locked())
        if folder is not None and resume:
            saved = folder.latest()
        elif folder is not None and is_lead() and folder.found():
            raise TrainingError(
                "E421", f"{folder.path} already holds a run", "--resume, or another --out"
            )
        setting = Setting(place or Place(), folder, saved, force, streams, name, tensorboard)
        return run(lit, found, request, recipe, setting)


def request_for(network: Any, **choices: Any) -> Request:
    """What a generated network needs of data. Raises TrainingError if it has no head."""
    head = first_head(network)
    if head is None:
        raise TrainingError(
            "E416", "the network has no head, so it has no loss", "end it with one: FC(10), SOFTMAX"
        )
    return Request(dict(network.INPUTS), network.LABELS[head], **choices)


def _data(data: str | Data | Sequence[Any], request: Request) -> Data:
    if isinstance(data, Data):
        return checked(data, request)
    if isinstance(data, str):
        return read(data, request)
    *inputs, labels = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in data)
    made = tuple(x if x.dtype == torch.uint8 else x.float() for x in inputs)
    train, test = split_arrays(made, labels, request)
    return checked(Data("arrays", suited(train, request), suited(test, request)), request)
