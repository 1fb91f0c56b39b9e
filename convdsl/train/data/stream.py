"""Pictures that come one after the other, of which few are in memory at a time.

They can be read again in the order of another seed, but not by number. So a run that goes on reads
on from the beginning of its epoch, and decodes nothing of what it passes over.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from convdsl.train.data.parts import Request
from convdsl.train.data.pictures import BadPictureError, PictureFile, decode
from convdsl.train.data.suit import shaped
from convdsl.train.problem import TrainingError


class Sample(NamedTuple):
    """name: what errors call it. open: gives the picture, which need not be here yet."""

    name: str
    open: Callable[[], PictureFile]
    label: int


@dataclass(frozen=True)
class Stream:
    """A part of a data set.

    samples: all of them, in the order that a seed gives; of None, in their own. count: how many
    there are. name: of the part. bad: why pictures could not be decoded; the next of their batch
    stands in for each.
    """

    samples: Callable[[int | None], Iterator[Sample]]
    count: int
    request: Request
    name: str
    bad: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def chunks(self, size: int, seed: int | None) -> Iterator[list[Sample]]:
        """All samples, ``size`` at a time. Raises TrainingError if there are fewer than `count`."""
        seen, samples = 0, self.samples(seed)
        while seen < self.count:
            some = list(islice(samples, size))
            seen += len(some)
            if len(some) < size and seen < self.count:
                raise TrainingError(
                    "E411",
                    f"{self.name} is said to have {self.count:,} samples, but {seen:,} came",
                    "leave --stream out",
                )
            yield some

    def decoded(
        self, samples: Sequence[Sample], wanted: Sequence[int]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and labels of the ``wanted`` ones of a batch.

        Raises TrainingError for sizes that do not suit, and if no picture can be decoded.
        """
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(lambda number: self._decoded(samples, number), wanted))
        return (torch.stack([x for x, _ in found]),), torch.tensor([y for _, y in found])

    def _decoded(self, samples: Sequence[Sample], number: int) -> tuple[Tensor, int]:
        for sample in (*samples[number:], *samples[:number]):
            try:
                return picture(sample, self.request), sample.label
            except BadPictureError as error:
                self.bad[sample.name] = str(error)
        raise TrainingError(
            "E411",
            f"no picture of a whole batch can be decoded: {samples[number].name}: "
            f"{self.bad[samples[number].name]}",
        )


def picture(sample: Sample, request: Request) -> Tensor:
    """uint8 (C, H, W) in the network's channels and size; another size only if asked for.

    Raises TrainingError for another size, BadPictureError.
    """
    name, shape = next(iter(request.inputs.items()))
    try:
        file = sample.open()
    except (OSError, ValueError) as error:
        raise BadPictureError(str(error) or type(error).__name__) from error
    if request.resize:
        return decode(file, shape)
    return shaped(decode(file, shape, fit=False)[None], name, shape, request)[0]
