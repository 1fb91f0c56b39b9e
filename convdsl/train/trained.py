"""A trained network, or several as an ensemble, read from checkpoints and ready to be asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convdsl.compiler import Network
from convdsl.train import program
from convdsl.train.checkpoint import load
from convdsl.train.data.normalise import Normalisation, as_float
from convdsl.train.data.parts import Request
from convdsl.train.problem import TrainingError
from convdsl.train.run_folder import checkpoint_of
from convdsl.train.score import first_head

#: folders of an ensemble's members
MEMBER = "member-"


@dataclass(frozen=True)
class Member:
    """One network in evaluation mode with what its inputs are brought to."""

    compiled: Network
    network: Any
    normalisation: tuple[Normalisation, ...]

    def prepared(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        made = [as_float(x) for x in inputs]
        pairs = zip(self.normalisation, made, strict=True)
        return [one(x) for one, x in pairs] if self.normalisation else made


@dataclass(frozen=True)
class Trained:
    """Members whose probabilities are averaged; one for a network that is no ensemble.

    classes: their names. about: what the checkpoint of the first says of itself.
    """

    members: tuple[Member, ...]
    classes: tuple[str, ...]
    about: dict[str, Any]

    @property
    def request(self) -> Request:
        """What its data was asked for with."""
        network = self.members[0].network
        name = first_head(network)
        if name is None:
            raise TrainingError("E416", "the network has no head at inference")
        asked = self.about["data"].get("request", {})
        return Request(dict(network.INPUTS), network.LABELS[name], **asked)

    def probabilities(self, *inputs: Tensor) -> Tensor:
        """What the first head predicts of inputs as a data set has them: for SOFTMAX the mean of
        the members' probabilities, (N, classes) or (N, classes, H, W)."""
        total: Tensor | None = None
        for member in self.members:
            found = member.network.predict(*member.prepared(inputs))
            name = first_head(member.network)
            if not isinstance(found, Tensor):
                found = getattr(found, str(name))
            total = found.float() if total is None else total + found.float()
        assert total is not None
        return total / len(self.members)


def load_trained(path: str | Path) -> Trained:
    """From a checkpoint, the folder of a run (its best epoch) or of an ensemble.

    Raises TrainingError, and CompileError for a program that this version cannot read.
    """
    root = Path(path)
    folders = sorted(root.glob(f"{MEMBER}*")) or [root]
    found = [_member(checkpoint_of(folder)) for folder in folders]
    classes = {tuple(about["classes"]) for _, about in found}
    if len(classes) > 1:
        raise TrainingError("E423", f"the members of {root} have different classes")
    return Trained(tuple(m for m, _ in found), classes.pop(), found[0][1])


def _member(folder: Path) -> tuple[Member, dict[str, Any]]:
    saved = load(folder)
    about = saved["model"]
    try:
        recorded, recipe = about["program"], about["recipe"]
        normalisation = tuple(Normalisation.from_json(n) for n in about["normalisation"])
        _ = about["classes"], about["data"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            "E420", f"{folder} does not say what its weights are for: {error}"
        ) from error
    compiled = program.rebuild(recorded)
    dtype = torch.bfloat16 if recipe.get("precision") == "bf16" else torch.float32
    network: Any = compiled.module(dtype=dtype)
    try:
        network.load_state_dict(saved["weights"])
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise TrainingError(
            "E420", f"the weights in {folder} do not fit its program: {why}"
        ) from None
    return Member(compiled, network.eval(), normalisation), about
