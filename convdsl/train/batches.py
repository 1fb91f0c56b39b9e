"""A part of the data as batches, in an order that is a function of (seed, epoch).

A batch is shared out among the processes of a run, so that neither their number nor where a run
was interrupted changes what is in it. Lightning saves and restores the place it has come to.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from convdsl.train.data.parts import Arrays, Part
from convdsl.train.data.stream import Sample, Stream
from convdsl.train.guards import checked_labels
from convdsl.train.random_numbers import mixed

#: batches fetched ahead where samples come from files
AHEAD = 3


class Batch(NamedTuple):
    """inputs, labels; rows: which samples they are; share: what this process's mean counts for."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    share: float


class _EpochListener:
    """Stands where a DataLoader has its samplers."""

    def __init__(self, sampler: "Batches") -> None:
        self.sampler = sampler


class Batches:
    """Iterating gives the batches of one epoch.

    size: samples of a whole batch. shuffle: in random order, of which a last batch smaller than
    ``least`` is left out; otherwise in order. rank, world: this process's place among how many.
    """

    def __init__(
        self,
        part: Part | Stream,
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        least: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.part, self.seed, self.shuffle = part, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch, self.done = 0, 0
        count = len(part)
        self.size = min(size, count)
        rest = count % self.size if self.size else 0
        whole = count // self.size if self.size else 0
        self.count = whole + (rest > 0 if not shuffle else rest >= max(1, least))
        self._first = 0

    def __len__(self) -> int:
        return self.count

    @property
    def batch_sampler(self) -> "_EpochListener":
        """What Lightning tells the epoch."""
        return _EpochListener(self)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch are done."""
        return {"done": self.done % max(1, self.count)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._first = int(state["done"])

    def __iter__(self) -> Iterator[Batch]:
        self.done, self._first = self._first, 0
        jobs = self._jobs(self.done)
        if isinstance(self.part, Arrays) and self.part.in_memory:
            for job in jobs:
                self.done += 1
                yield job()
            return
        with ThreadPoolExecutor(1) as pool:  # one thread, so that batches stay in order
            waiting = [pool.submit(_next, jobs) for _ in range(AHEAD)]
            while (batch := waiting.pop(0).result()) is not None:
                waiting.append(pool.submit(_next, jobs))
                self.done += 1
                yield batch

    def _jobs(self, first: int) -> Iterator[Callable[[], Batch]]:
        """What makes the batches of this epoch, without the ``first``."""
        if isinstance(self.part, Stream):
            seed = mixed(self.seed, self.epoch) if self.shuffle else None
            chunks = self.part.chunks(max(1, self.size), seed)
            for number, samples in islice(enumerate(chunks), first, self.count):
                yield partial(self._decoded, self.part, number, samples)
            return
        order = torch.arange(len(self.part))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
            order = torch.randperm(len(self.part), generator=generator)
        for rows in torch.split(order, max(1, self.size))[first : self.count]:
            yield partial(self._taken, self.part, rows)

    def _taken(self, part: Part, rows: Tensor) -> Batch:
        mine, share = self._mine(rows)
        return Batch(part.take(mine), part.labels[mine], mine, share)

    def _decoded(self, stream: Stream, number: int, samples: list[Sample]) -> Batch:
        """Of a stream a sample's number is its place in this epoch."""
        mine, share = self._mine(torch.arange(len(samples)))
        inputs, labels = stream.decoded(samples, mine.tolist())
        labels = checked_labels(labels, stream.request.label, stream.name)
        return Batch(inputs, labels, mine + number * self.size, share)

    def _mine(self, rows: Tensor) -> tuple[Tensor, float]:
        """Those of a batch that are for this process, and its share of it."""
        mine = rows[self.rank :: self.world]
        share = len(mine) * self.world / len(rows)
        return (mine if len(mine) else rows[:1]), share  # every process must take part in a step


def _next(jobs: Iterator[Callable[[], Batch]]) -> Batch | None:
    job = next(jobs, None)
    return None if job is None else job()
