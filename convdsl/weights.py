"""Weights of torchvision and timm models <-> those of a generated network.

Layers are matched, not single tensors: a layer is what stands at one path (``layer1.0.bn2``) with
its tensors (``weight``, ``bias``, ``running_mean``, ``running_var``) and their shapes. First those
of the same path and shapes; then, in their order, those of a top-level part that both sides call
the same (``aux1``); then the rest in order. So both sides must list their layers in the order of
the computation, branch by branch, as torchvision, timm and generated networks do.

All or nothing: where a layer is left over or does not fit, `MismatchError` lists it and nothing is
changed. Equal layers in another order cannot be told apart by their shapes; ``names`` settles that.
Does not read files and does not change numbers (torchvision's Inception networks with
``transform_input=True`` expect another normalisation of the image).
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: what torch counts in batch normalisation for ``momentum=None``, which no generated network needs
COUNTER = "num_batches_tracked"
#: lines of a refusal
MOST = 24

Shape = tuple[int, ...]


class MismatchError(ValueError):
    """Two sets of weights do not belong together; the text lists the layers that do not fit."""


class Layer(NamedTuple):
    """The tensors at one path: name behind the path, and shape."""

    path: str
    tensors: tuple[tuple[str, Shape], ...]

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.tensors)
        return f"{self.path}: {shapes}"


def load(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
) -> None:
    """Copy the weights of a torchvision or timm model into ``model``, a generated network.

    state_dict: the other model's, in its own order. names: our path -> theirs, of layers or of
    whole parts (``{"aux": "AuxLogits"}``), where neither name nor order tells. Raises
    MismatchError, and changes nothing, unless every layer of both sides is used.

        weights.load(model, torchvision.models.resnet50(weights="DEFAULT").state_dict())
    """
    ours = model.state_dict()
    pairs = match(model, state_dict, names)
    model.load_state_dict({key: state_dict[pairs[key]].reshape(ours[key].shape) for key in pairs})


def to_torchvision(
    model: nn.Module,
    like: Mapping[str, Tensor | Sequence[int]],
    names: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The weights of ``model`` under the names, in the order and in the shapes of ``like``.

    like: the state_dict of the other model, or name -> shape. names: as for `load`. The tensors are
    copies; ``num_batches_tracked`` is that of ``like``, 0 where only its shape is given. Raises
    MismatchError as `load` does.

        other.load_state_dict(weights.to_torchvision(model, other.state_dict()))
    """
    ours = model.state_dict()
    found = {theirs: key for key, theirs in match(model, like, names).items()}
    result: dict[str, Tensor] = {}
    for key, given in like.items():
        if key in found:
            result[key] = ours[found[key]].detach().contiguous().clone().reshape(_shape(given))
        elif isinstance(given, Tensor) and not given.is_meta:
            result[key] = given.detach().clone()
        else:
            result[key] = torch.zeros((), dtype=torch.int64)
    return result


def match(
    model: nn.Module,
    state_dict: Mapping[str, Tensor | Sequence[int]],
    names: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Our key -> theirs, of every tensor but torch's counters. Arguments and errors as `load`'s."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"{type(state_dict).__name__} is no state_dict: pass model.state_dict()")
    for key, value in state_dict.items():
        if not isinstance(value, Tensor | tuple | list):
            inner = next((k for k, v in state_dict.items() if isinstance(v, Mapping)), None)
            advice = f": pass its entry {inner!r}" if inner else ""
            raise TypeError(f"{key!r} is no tensor, so this is no state_dict{advice}")
    ours, theirs = _layers(model.state_dict()), _layers(state_dict)
    called = _renamed(ours, dict(names or {}))
    pairs = _by_name(called, theirs)
    if len(pairs) < max(len(ours), len(theirs)):
        if _is_sorted(theirs):
            raise MismatchError(
                "the state_dict is sorted by name, as .safetensors files are, so the order of its "
                "layers is lost: put it back with\n"
                "  {key: state_dict[key] for key in other_model.state_dict()}"
            )
        pairs |= _by_part(called, theirs, pairs)
        rest, others = _unpaired(ours, theirs, pairs)
        if not _in_order(rest, others):
            raise MismatchError(_listing(rest, others, len(ours)))
        pairs |= dict(zip(rest, others, strict=True))
        if not names:
            _refuse_doubt(ours, theirs, pairs)
    return {
        _join(mine.path, name): _join(pairs[mine].path, name)
        for mine in ours
        for name, _ in mine.tensors
    }


def _layers(tensors: Mapping[str, Tensor | Sequence[int]]) -> list[Layer]:
    """The layers in the order in which their first tensors stand."""
    found: dict[str, list[tuple[str, Shape]]] = {}
    for key, value in tensors.items():
        path, _, name = key.rpartition(".")
        if name != COUNTER:
            found.setdefault(path, []).append((name, _shape(value)))
    return [Layer(path, tuple(inner)) for path, inner in found.items()]


def _shape(value: Tensor | Sequence[int]) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else tuple(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _renamed(ours: list[Layer], names: dict[str, str]) -> dict[Layer, str]:
    """What the other side should call each of our layers: its own path but for ``names``."""
    called: dict[Layer, str] = {}
    used: set[str] = set()
    for layer in ours:
        parts = layer.path.split(".")
        prefixes = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        prefix = next((prefix for prefix in prefixes if prefix in names), "")
        used.add(prefix)
        called[layer] = names.get(prefix, prefix) + layer.path[len(prefix) :]
    if unknown := sorted(set(names) - used):
        raise ValueError(f"names: the network has no layer or part {unknown[0]!r}")
    if len(set(called.values())) < len(called):
        raise ValueError("names: two layers of the network would have one name")
    return called


def _by_name(called: Mapping[Layer, str], theirs: list[Layer]) -> dict[Layer, Layer]:
    """Layers of the same path that fit."""
    known = {layer.path: layer for layer in theirs}
    return {
        layer: known[path]
        for layer, path in called.items()
        if path in known and _fit(layer, known[path])
    }


def _by_part(
    called: Mapping[Layer, str], theirs: list[Layer], pairs: Mapping[Layer, Layer]
) -> dict[Layer, Layer]:
    """What is left of a top-level part, in order, where both sides have one of that name."""
    found: dict[Layer, Layer] = {}
    rest, others = _unpaired(list(called), theirs, pairs)
    for part in {called[layer].partition(".")[0]: None for layer in rest}:
        mine = [layer for layer in rest if called[layer].partition(".")[0] == part]
        other = [layer for layer in others if layer.path.partition(".")[0] == part]
        if _in_order(mine, other):
            found |= dict(zip(mine, other, strict=True))
    return found


def _unpaired(
    ours: list[Layer], theirs: list[Layer], pairs: Mapping[Layer, Layer]
) -> tuple[list[Layer], list[Layer]]:
    taken = set(pairs.values())
    return [a for a in ours if a not in pairs], [b for b in theirs if b not in taken]


def _fit(mine: Layer, other: Layer) -> bool:
    """The same tensors; a dense layer may be written as a convolution that covers its whole map."""
    shapes = dict(other.tensors)
    return len(mine.tensors) == len(shapes) and all(
        name in shapes and _same(shape, shapes[name]) for name, shape in mine.tensors
    )


def _same(a: Shape, b: Shape) -> bool:
    if a == b:
        return True
    # dense (K, C*H*W) and convolution (K, C, H, W): the same numbers in the same order
    dense = 2 in (len(a), len(b)) and min(len(a), len(b)) > 1
    return dense and a[0] == b[0] and prod(a) == prod(b)


def _in_order(ours: list[Layer], theirs: list[Layer]) -> bool:
    return len(ours) == len(theirs) and all(map(_fit, ours, theirs))


def _is_sorted(layers: list[Layer]) -> bool:
    """Alphabetical, and not by chance: ``bias`` before ``weight``, or ``10`` before ``2``."""
    if any(
        "weight" in names[names.index("bias") :] for names in map(_names, layers) if "bias" in names
    ):
        return True
    paths = [layer.path for layer in layers]
    # digits and other text in turn, text first, so that any two lists compare place by place
    parts = [re.split(r"(\d+)", path) for path in paths]
    natural = [[int(part) if part.isdigit() else part for part in path] for path in parts]
    return paths == sorted(paths) and natural != sorted(natural)


def _names(layer: Layer) -> list[str]:
    return [name for name, _ in layer.tensors]


def _refuse_doubt(ours: list[Layer], theirs: list[Layer], pairs: dict[Layer, Layer]) -> None:
    """MismatchError if some layers match by name, all match by order, and the two differ.

    So it is with ``conv, conv2, conv3`` and ``conv1, conv2, conv3`` of one shape counted from 0.
    """
    if not _in_order(ours, theirs):
        return
    for mine, other in zip(ours, theirs, strict=True):
        if pairs[mine] != other:
            raise MismatchError(
                f"{mine.path} may be {pairs[mine].path} or, going by the order, {other.path}: the "
                f"shapes are equal. Say which: names={{{mine.path!r}: {other.path!r}}}"
            )


def _listing(ours: list[Layer], theirs: list[Layer], total: int) -> str:
    """Side by side what is left over or does not fit."""
    rows: list[tuple[str, str]] = []
    outlines = [[_outline(layer) for layer in side] for side in (ours, theirs)]
    blocks = SequenceMatcher(None, outlines[0], outlines[1], autojunk=False).get_opcodes()
    for _, i, end, j, other_end in blocks:
        for mine, other in zip_longest(ours[i:end], theirs[j:other_end]):
            if mine is None or other is None or not _fit(mine, other):
                rows.append((str(mine or "-"), str(other or "-")))
    shown = rows[:MOST]
    width = max(len(left) for left, _ in [*shown, ("the network", "")])
    lines = [f"  {left:{width}}  |  {right}" for left, right in [("the network", "the state_dict")]]
    lines += [f"  {left:{width}}  |  {right}" for left, right in shown]
    if len(rows) > MOST:
        lines.append(f"  ... and {len(rows) - MOST} more")
    counts = [sum(side != "-" for side in column) for column in zip(*rows, strict=True)]
    return (
        f"{counts[0]} of the network's {total} layers and {counts[1]} of the state_dict's do not "
        "fit; nothing was changed\n" + "\n".join(lines)
    )


def _outline(layer: Layer) -> tuple[tuple[str, int, int], ...]:
    """What two layers that fit have in common, as something to compare."""
    return tuple(
        sorted((name, shape[0] if shape else 1, prod(shape)) for name, shape in layer.tensors)
    )
