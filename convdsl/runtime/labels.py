"""Labels as users give them -> one checked tensor for every head at work.

Copied into generated files like `support`; imports torch only. Everything is checked before a
kernel runs, but for the labels' values while a CUDA graph is captured, where nobody can look at
them: of a class number beyond the classes the loss is then NaN.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: class numbers that the host looks at itself: less work than a kernel for them, and a wait less
FEW = 1024

#: kind, shape of one sample, and for classes (number, ignored), for numbers (least, most)
LabelSpec = tuple[str, tuple[int, ...], float | None, float | None]


def assign_labels(y: Any, heads: Mapping[str, LabelSpec], active: Sequence[str]) -> dict[str, Any]:
    """The labels of each active head by its name; ValueError if they do not fit the heads.

    y: one tensor if the active heads want the same, a tuple or list with one entry for every head
    in order, active or not, or a dict by name, in which those of inactive heads may be missing.
    """
    if isinstance(y, Mapping):
        if unknown := [name for name in y if name not in heads]:
            names = ", ".join(heads)
            raise ValueError(f"there is no head on an output {unknown[0]!r}; heads: {names}")
        if missing := [name for name in active if name not in y]:
            raise ValueError(f"labels for the output {missing[0]!r} are missing")
        return {name: y[name] for name in active}
    if isinstance(y, Sequence) and not isinstance(y, str):
        if len(y) != len(heads):
            names = ", ".join(heads)
            raise ValueError(f"{len(y)} labels were given for {len(heads)} heads: {names}")
        given = dict(zip(heads, y, strict=True))
        return {name: given[name] for name in active}
    if any(heads[name] != heads[active[0]] for name in active):
        names = ", ".join(active)
        raise ValueError(f"the heads want different labels: give a dict or a tuple ({names})")
    return dict.fromkeys(active, y)


def loss_dtype(x: Tensor) -> torch.dtype:
    """What losses of ``x`` are worked out in: float32, or what it has if that is wider."""
    return torch.promote_types(x.dtype, torch.float32)


def check_labels(y: object, of: str, spec: LabelSpec, x: Tensor, layout: str) -> Tensor:
    """``y`` as the head wants it, for inputs like ``x``; ValueError if it does not suit ``spec``.

    Class numbers stay int64; others come in `loss_dtype`, maps as (N, C, H, W). ``of``: what to say
    behind "labels" where the network has several heads.
    """
    kind, shape, first, second = spec
    if not isinstance(y, Tensor):
        raise ValueError(f"labels{of} must be a torch.Tensor, got {type(y).__name__}")
    if kind == "classes" and y.dtype != torch.int64:
        advice = "" if y.is_floating_point() or y.is_complex() else "; for others: y.long()"
        wanted = "class numbers of dtype torch.int64"
        raise ValueError(f"labels{of} must be {wanted}, got {y.dtype}{advice}")
    if y.is_complex():
        raise ValueError(f"labels{of} must be real numbers, got {y.dtype}")
    size = (len(x), *shape)
    if layout == "NHWC" and kind == "numbers" and len(shape) > 1:
        size = (len(x), *shape[1:], shape[0])
    if kind == "pairs" and y.dim() == 1:
        y = y[:, None]
    if tuple(y.shape) != size:
        raise ValueError(f"labels{of} must have shape {size}, got {tuple(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"labels{of} are on {y.device}, the input is on {x.device}")
    readable = not (y.is_cuda and torch.cuda.is_current_stream_capturing())
    if kind == "classes" and readable:
        check_classes(y, of, int(first or 0), second)
    if kind == "classes":
        return y
    if kind == "pairs" and readable and bool(((y != 0) & (y != 1)).any()):
        raise ValueError(f"labels{of} must be 1 for a similar pair and 0 for a different one")
    if (
        readable
        and first is not None
        and second is not None
        and bool(((y < first) | (y > second)).any())
    ):
        raise ValueError(f"labels{of} must lie in {first:g}..{second:g}")
    y = y.to(loss_dtype(x))
    return y.movedim(-1, 1) if layout == "NHWC" and len(shape) > 1 else y


def least_and_most(y: Tensor) -> tuple[int, int]:
    """Of whole numbers, one at least."""
    if y.numel() <= FEW:
        numbers = y.flatten().tolist()
        return min(numbers), max(numbers)
    low, high = torch.aminmax(y)
    return int(low), int(high)


def check_classes(y: Tensor, of: str, classes: int, ignored: float | None) -> None:
    """ValueError unless all of ``y`` lie in [0, classes) or are ``ignored``."""
    if y.numel() == 0:
        return
    low, high = least_and_most(y)
    if (low < 0 or high >= classes) and ignored is not None:
        low, high = least_and_most(torch.where(y == ignored, 0, y))
    if low < 0 or high >= classes:
        worst = low if low < 0 else high
        raise ValueError(
            f"label {worst}{of} is outside 0..{classes - 1}: the network has {classes} classes"
        )
