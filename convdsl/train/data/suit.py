"""Arrays as a file has them -> inputs in the shapes that the network reads, or why not.

What is meant is never guessed: channels last, a missing channel axis and flat vectors are
accepted where only one reading fits the network. Sizes change only when the user asks for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from convdsl.train.data.parts import Arrays, Request, Shape, check_counts
from convdsl.train.problem import TrainingError


def suited(part: Arrays, request: Request) -> Arrays:
    """The part with its inputs in the network's shapes. Raises TrainingError."""
    names = list(request.inputs)
    if len(part.inputs) != len(names):
        raise TrainingError(
            "E412",
            f"the network reads {len(names)} inputs ({', '.join(names)}), the data has "
            f"{len(part.inputs)}",
            "npz: files can hold an array for each input, under its name",
        )
    check_counts(part.inputs, part.labels)
    made = tuple(
        shaped(x, name, shape, request)
        for x, (name, shape) in zip(part.inputs, request.inputs.items(), strict=True)
    )
    return Arrays(made, part.labels)


def shaped(x: Tensor, name: str, wanted: Shape, request: Request) -> Tensor:
    x = _axes(x, wanted)
    if tuple(x.shape[1:]) == wanted:
        return x
    pictures = len(wanted) == 3 and x.dim() == 4
    if pictures and x.shape[1] == wanted[0]:
        if request.pad:
            return _padded(x, wanted)
        if request.resize:
            return resized(x, wanted[1:])
    raise TrainingError("E412", _mismatch(x, name, wanted), _advice(x, wanted, pictures))


def _axes(x: Tensor, wanted: Shape) -> Tensor:
    """Axes in the network's order, where the given order is another that fits it."""
    given = tuple(x.shape[1:])
    if given == wanted:
        return x
    if len(wanted) == 3 and len(given) == 2 and wanted[0] == 1:
        return x[:, None]
    if len(wanted) == 3 and len(given) == 3 and given[2] == wanted[0] != given[0]:
        return x.movedim(3, 1).contiguous()
    if len(wanted) == 1 and x[:1].numel() == wanted[0]:
        return x.flatten(1)
    if len(wanted) == 2 and len(given) == 1 and wanted[0] == 1:
        return x[:, None]
    return x


def _padded(x: Tensor, wanted: Shape) -> Tensor:
    """Black margins all around, the picture in the middle."""
    more = [wanted[axis] - x.shape[axis + 1] for axis in (1, 2)]
    if min(more) < 0:
        raise TrainingError(
            "E412", f"pictures of {_size(x)} cannot be padded to {_times(wanted[1:])}", "--resize"
        )
    (top, left), (rows, columns) = (m // 2 for m in more), more
    return F.pad(x, (left, columns - left, top, rows - top))


def resized(x: Tensor, size: Shape) -> Tensor:
    """Bilinear with antialiasing; uint8 stays uint8."""
    made = [
        F.interpolate(part.float(), size=size, mode="bilinear", antialias=True)
        for part in torch.split(x, 512)
    ]
    y = torch.cat(made) if made else x.new_empty((0, x.shape[1], *size), dtype=torch.float32)
    return y.round().clamp(0, 255).to(torch.uint8) if x.dtype == torch.uint8 else y


def _mismatch(x: Tensor, name: str, wanted: Shape) -> str:
    return f"{name} is {_volume(wanted)} in the network, but {_volume(tuple(x.shape[1:]))} here"


def _advice(x: Tensor, wanted: Shape, pictures: bool) -> str:
    if not pictures:
        return f"give arrays of shape (N, {', '.join(map(str, wanted))})"
    if x.shape[1] != wanted[0]:
        return f"compile the network for these pictures: --input {_volume(tuple(x.shape[1:]))}"
    larger = all(a <= b for a, b in zip(x.shape[2:], wanted[1:], strict=True))
    ways = ["--resize", *(["--pad"] if larger else [])]
    return f"{' or '.join(ways)}, or compile for them: --input {_volume(tuple(x.shape[1:]))}"


def _size(x: Tensor) -> str:
    return _times(tuple(x.shape[2:]))


def _times(sizes: Shape) -> str:
    return "x".join(map(str, sizes))


def _volume(shape: Shape) -> str:
    """As the language writes it: 3@32x32, 3@128, 784."""
    return f"{shape[0]}@{_times(shape[1:])}" if len(shape) > 1 else _times(shape)
