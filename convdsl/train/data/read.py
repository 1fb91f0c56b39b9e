"""``--data NAME:ARGUMENT`` -> `Data`, checked against the network."""

from collections.abc import Callable
from difflib import get_close_matches

from convdsl.train.data.cifar import read_cifar10, read_cifar100
from convdsl.train.data.digits import read_digits
from convdsl.train.data.folder import read_folder
from convdsl.train.data.hub import read_hub
from convdsl.train.data.idx import read_idx_folder
from convdsl.train.data.npz import read_npz
from convdsl.train.data.parts import Data, Request
from convdsl.train.guards import checked
from convdsl.train.problem import TrainingError

READERS: dict[str, Callable[[str, Request], Data]] = {
    "digits": read_digits,
    "mnist": read_idx_folder,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "folder": read_folder,
    "npz": read_npz,
    "hf": read_hub,
}


def read(text: str, request: Request) -> Data:
    """The data set ``text`` names, whole and suited to the network. Raises TrainingError."""
    return checked(read_unchecked(text, request), request)


def read_unchecked(text: str, request: Request) -> Data:
    """The same with labels as they stand, before it is known what the head wants."""
    name, _, argument = text.partition(":")
    if name not in READERS:
        near = get_close_matches(name, READERS, 1)
        advice = f"did you mean {near[0]}?" if near else f"one of {', '.join(READERS)}"
        raise TrainingError("E411", f"there is no kind of data {name!r}", advice)
    if request.stream and name != "hf":
        raise TrainingError(
            "E411", f"{name} cannot be streamed, only hf:NAME", "leave --stream out"
        )
    return READERS[name](argument, request)
