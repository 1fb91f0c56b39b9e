"""Pictures varied at random, a batch at a time on its device: float32 (N, C, H, W) in 0..1.

Every sample has random numbers of its own, given by seed, epoch and row.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convdsl.train.problem import TrainingError
from convdsl.train.random_numbers import mixed, normal, uniform


class Draw(NamedTuple):
    """Where a batch's random numbers come from; colour: of `Normalisation`."""

    seed: int
    samples: Tensor
    colour: Sequence[Sequence[float]] = ()


def shift(x: Tensor, draw: Draw) -> Tensor:
    """Moved by up to an eighth of the size along each axis, black moving in (the lecture's
    translation)."""
    n, _, height, width = x.shape
    u = uniform(draw.seed, draw.samples, 2)
    index = []
    for axis, size in ((0, height), (1, width)):
        most = max(1, size // 8)
        by = (u[:, axis] * (2 * most + 1)).long() - most
        index.append(torch.arange(size, device=x.device) - by[:, None])
    rows, columns = index
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    sample = torch.arange(n, device=x.device)[:, None, None]
    picked = x.movedim(1, -1)[
        sample, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    return (picked * inside[..., None]).movedim(-1, 1).contiguous()


def flip(x: Tensor, draw: Draw) -> Tensor:
    """Every other one, on average, mirrored from left to right."""
    turned = uniform(draw.seed, draw.samples, 1)[:, 0] < 0.5
    return torch.where(turned[:, None, None, None], x.flip(3), x)


def crop(x: Tensor, draw: Draw) -> Tensor:
    """A square of 60 to 100 % of the sides, somewhere within, scaled to the whole size."""
    u = uniform(draw.seed, draw.samples, 3)
    scale = 0.6 + 0.4 * u[:, 0]
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (2 * u[:, 1:] - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False, padding_mode="border")


def color(x: Tensor, draw: Draw) -> Tensor:
    """RGB moved along the principal axes of the training pictures' colours, by a normal number
    of deviation 0.1 times the eigenvalue (Krizhevsky, Sutskever and Hinton, 2012, section 4.1)."""
    axes = x.new_tensor(draw.colour)
    amount = 0.1 * normal(draw.seed, draw.samples, len(axes))
    return x + (amount @ axes)[:, :, None, None]


KINDS: dict[str, Callable[[Tensor, Draw], Tensor]] = {
    "crop": crop,
    "shift": shift,
    "flip": flip,
    "color": color,
}


def check_kinds(kinds: Sequence[str], channels: int, maps: bool) -> None:
    """Raises TrainingError for unknown ones, or for those that do not suit the samples.

    channels: of the pictures, 0 if the inputs are none. maps: the labels are maps of their own.
    """
    for kind in kinds:
        if kind not in KINDS:
            near = get_close_matches(kind, KINDS, 1)
            advice = f"did you mean {near[0]}?" if near else f"of {', '.join(KINDS)}"
            raise TrainingError("E415", f"there is no augmentation {kind!r}", advice)
        if not channels:
            raise TrainingError("E415", f"{kind} is for pictures", "--augment none")
        if kind == "color" and channels != 3:
            raise TrainingError("E415", f"color is for RGB, the pictures have {channels} channels")
        if maps and kind != "color":
            raise TrainingError(
                "E415", f"{kind} would move the pictures but not their label maps", "--augment none"
            )


def augment(x: Tensor, kinds: Sequence[str], draw: Draw) -> Tensor:
    """``x`` varied in all these ways, in the order of `KINDS`."""
    for number, (kind, vary) in enumerate(KINDS.items()):
        if kind in kinds:
            x = vary(x, draw._replace(seed=mixed(draw.seed, number)))
    return x
