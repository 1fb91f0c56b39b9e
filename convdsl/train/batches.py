"""A part of the data as batches, in an order that is a function of (seed, epoch).

A batch is shared out among the processes of a run, so that neither their number nor where a run
was interrupted changes what is in it. Lightning saves and restores the place it has come to.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from convdsl.train.data.parts import Part
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
        part: Part,
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
        chunks = self._rows()[self.done :]
        if self.part.in_memory:
            for rows in chunks:
                self.done += 1
                yield self._batch(rows)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: list[Future[Batch]] = [pool.submit(self._batch, r) for r in chunks[:AHEAD]]
            for number in range(len(chunks)):
                batch = waiting.pop(0).result()
                if number + AHEAD < len(chunks):
                    waiting.append(pool.submit(self._batch, chunks[number + AHEAD]))
                self.done += 1
                yield batch

    def _rows(self) -> list[Tensor]:
        """Row numbers of every whole batch of this epoch."""
        order = torch.arange(len(self.part))
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
            order = torch.randperm(len(self.part), generator=generator)
        return list(torch.split(order, max(1, self.size)))[: self.count]

    def _batch(self, rows: Tensor) -> Batch:
        mine = rows[self.rank :: self.world]
        share = len(mine) * self.world / len(rows)
        if not len(mine):  # every process must take part in a step
            mine = rows[:1]
        return Batch(self.part.take(mine), self.part.labels[mine], mine, share)
