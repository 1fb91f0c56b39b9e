"""Weights learned elsewhere: start from them, keep some of them as they are."""

import pickle
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from convdsl.train.checkpoint import load, read_safetensors
from convdsl.train.problem import TrainingError, unreadable
from convdsl.train.run_folder import checkpoint_of
from convdsl.weights import MismatchError
from convdsl.weights import load as load_layers

#: written before a file that torch.save made, so that nobody reads one by mistake
TORCH = "torch:"


def read_weights(text: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint or run folder, a ``.safetensors`` file or ``torch:FILE``.

    A torch file is read with ``weights_only=True`` and only when it is called so. Raises
    TrainingError.
    """
    if text.startswith(TORCH):
        return _torch_file(Path(text.removeprefix(TORCH)))
    path = Path(text)
    if path.is_dir():
        found: dict[str, Tensor] = load(checkpoint_of(path))["weights"]
        return found
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"):
        raise TrainingError(
            "E420",
            f"{path} looks like a torch file, which is pickle",
            f"convert it to .safetensors, or if you trust it: --init {TORCH}{path}",
        )
    try:
        return read_safetensors(path.read_bytes(), path)
    except OSError as error:
        raise unreadable(path, error) from error


_BAD_TORCH_FILE = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
)


def _torch_file(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it would rather be given
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, error) from error
    except _BAD_TORCH_FILE:
        # torch's own text advises weights_only=False, which would run the file's code
        raise TrainingError(
            "E420",
            f"{path} is damaged or holds more than tensors, so it is not read",
            "save model.state_dict() alone, best as .safetensors",
        ) from None
    while isinstance(found, Mapping) and "state_dict" in found:
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise TrainingError("E420", f"{path} holds no state_dict", "save model.state_dict()")
    return dict(found)


def initialise(network: Any, source: Path | str, fresh_head: bool = False) -> list[str]:
    """Copy weights into ``network``; the names of those that stay as they were started.

    By name if the names are the network's own, else as `convdsl.weights.load` matches layers.
    fresh_head: the last layer with weights starts afresh. Raises TrainingError if anything does
    not fit; then nothing has changed.
    """
    given = read_weights(str(source))
    if bad := [name for name, t in given.items() if t.is_floating_point() and not _finite(t)]:
        raise TrainingError("E420", f"the weights {bad[0]} in {source} are not finite")
    own = network.state_dict()
    kept: list[str] = []
    if fresh_head:
        last = list(own)[-1].rpartition(".")[0]
        kept = [name for name in own if name.rpartition(".")[0] == last]
    wanted = {name: tensor for name, tensor in own.items() if name not in kept}
    if all(name in given and given[name].shape == t.shape for name, t in wanted.items()) and (
        not set(given) - set(own)
    ):
        network.load_state_dict({**own, **{name: given[name] for name in wanted}})
        return kept
    if fresh_head:
        misfit = [n for n, t in wanted.items() if n not in given or given[n].shape != t.shape]
        extra = sorted(set(given) - set(own))
        raise TrainingError(
            "E420",
            f"{source} does not fit but for the head: {', '.join([*misfit, *extra][:6])}",
        )
    try:
        load_layers(network, given)
    except (MismatchError, TypeError, ValueError) as error:
        why = "\n".join(line[:120] for line in str(error).splitlines()[:24])
        raise TrainingError(
            "E420", f"{source} does not fit: {why}", "--replace-head for other classes"
        ) from error
    return []


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def freeze(network: Any, patterns: Sequence[str]) -> list[str]:
    """Parameters whose names match stay as they are; their names. ``features.*`` is a pattern.

    Raises TrainingError for a pattern that matches none.
    """
    frozen: list[str] = []
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise TrainingError(
                "E416",
                f"no parameter is called {pattern!r}",
                f"they are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}",
            )
        frozen += matching
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    return frozen
