"""Mean, standard deviation and colour axes of a training part, and inputs brought to them.

Worked out once, stored with the model, and applied by whoever uses it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from convdsl.train.data.parts import Part
from convdsl.train.data.stream import Stream

#: pictures that the statistics are taken over, evenly spread
MOST = 10_000
#: pictures of a stream, the first in a random order
FIRST = 2_000


@dataclass(frozen=True)
class Normalisation:
    """Of one input, by channel: mean, standard deviation; of RGB pictures its principal axes.

    colour: three rows, each an axis of the covariance of (R, G, B) times its eigenvalue.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    colour: tuple[tuple[float, ...], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """(x - mean) / std of pictures in 0..1, (N, C, ...), in float32."""
        shape = (1, -1, *([1] * (x.dim() - 2)))
        mean, std = (x.new_tensor(numbers).view(shape) for numbers in (self.mean, self.std))
        return (x - mean) / std

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> "Normalisation":
        colour = tuple(tuple(map(float, row)) for row in made.get("colour", ()))
        return cls(tuple(map(float, made["mean"])), tuple(map(float, made["std"])), colour)


def as_float(x: Tensor) -> Tensor:
    """float32; bytes, which are pictures, in 0..1."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def measure(part: Part | Stream) -> tuple[Normalisation, ...]:
    """Of every input of a training part."""
    sums: list[_Sums] = []
    for inputs in _spread(part):
        for i, x in enumerate(inputs):
            if len(sums) <= i:
                sums.append(_Sums(x.shape[1]))
            sums[i].add(as_float(x))
    return tuple(one.normalisation() for one in sums)


def _spread(part: Part | Stream) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of at most `MOST` samples, some at a time."""
    if isinstance(part, Stream):
        for samples in islice(part.chunks(500, seed=0), FIRST // 500):
            yield part.decoded(samples, range(len(samples)))[0]
        return
    rows = torch.linspace(0, len(part) - 1, min(len(part), MOST)).round().long()
    for some in torch.split(rows, 500):
        yield part.take(some)


class _Sums:
    """Count, sum and products of the channels, in float64."""

    def __init__(self, channels: int) -> None:
        # the products of all channels only where they are colours
        self.count, self.colours = 0, channels == 3
        self.sum = torch.zeros(channels, dtype=torch.float64)
        size = (3, 3) if self.colours else (channels,)
        self.products = torch.zeros(size, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        flat = x.movedim(1, 0).flatten(1).double()
        self.count += flat.shape[1]
        self.sum += flat.sum(1)
        self.products += flat @ flat.T if self.colours else flat.square().sum(1)

    def normalisation(self) -> Normalisation:
        mean = self.sum / self.count
        second = self.products / self.count
        colour: tuple[tuple[float, ...], ...] = ()
        if self.colours:
            covariance = second - mean[:, None] * mean[None]
            variance = covariance.diagonal()
            values, axes = torch.linalg.eigh(covariance)
            # an axis has no direction of its own: let its largest number be positive
            axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
            colour = tuple(tuple(row) for row in (axes * values.clamp(min=0)).T.tolist())
        else:
            variance = second - mean.square()
        std = variance.clamp(min=0).sqrt()
        std = torch.where(std > 1e-6, std, 1.0)  # a channel that never changes stays as it is
        return Normalisation(tuple(mean.tolist()), tuple(std.tolist()), colour)
