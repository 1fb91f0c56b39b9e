"""Watches Triton's interpreter: the bytes that every launch loads and stores, and where.

An element counts once for each launch that loads it, and once for each that stores it, whatever
the number of programs that do; masked ones do not count. Needs TRITON_INTERPRET=1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

Addresses = dict[int, list[np.ndarray[Any, Any]]]  # by the size of the elements


@dataclass
class Touched:
    """What one launch loads and stores."""

    kernel: str
    loads: Addresses = field(default_factory=dict)
    stores: Addresses = field(default_factory=dict)

    @property
    def read(self) -> int:
        return _bytes(self.loads)

    @property
    def written(self) -> int:
        return _bytes(self.stores)


def _bytes(addresses: Addresses) -> int:
    return sum(size * len(np.unique(np.concatenate(a))) for size, a in addresses.items())


def _note(addresses: Addresses, pointers: Any, mask: Any) -> None:
    size = pointers.get_element_ty().primitive_bitwidth // 8
    addresses.setdefault(size, []).append(np.unique(pointers.data[mask.data]))


@contextmanager
def watched() -> Iterator[list[Touched]]:
    """The launches of the block, in order."""
    seen: list[Touched] = []
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store = builder.create_masked_load, builder.create_masked_store
    run = executor.__call__

    # what is not masked comes here too, with a mask of ones
    def masked_load(self: Any, pointers: Any, mask: Any, *others: Any, **named: Any) -> Any:
        _note(seen[-1].loads, pointers, mask)
        return load(self, pointers, mask, *others, **named)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        _note(seen[-1].stores, pointers, mask)
        return store(self, pointers, value, mask, *others)

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        seen.append(Touched(self.fn.__name__))
        return run(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", masked_load)
        patch.setattr(builder, "create_masked_store", masked_store)
        patch.setattr(executor, "__call__", called)
        yield seen


@contextmanager
def guarded() -> Iterator[None]:
    """Raises IndexError where a launch of the block loads or stores outside of its tensors."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    run = executor.__call__
    inside: list[tuple[int, int]] = []
    name = ""

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal name
        name = self.fn.__name__
        leaves = tree_leaves((arguments, named))
        storages = [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]
        inside[:] = [(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages]
        return run(self, *arguments, **named)

    def check(pointers: Any, mask: Any) -> None:
        taken = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        places = pointers.data[taken]
        known = np.zeros(places.shape, bool)
        for start, end in inside:
            known |= (places >= start) & (places < end)
        if not known.all():
            raise IndexError(f"{name} is outside of its tensors, {(~known).sum()} times")

    def of(function: Any, place: int) -> Any:
        def checked(self: Any, pointers: Any, *others: Any, **named: Any) -> Any:
            check(pointers, others[place])
            return function(self, pointers, *others, **named)

        return checked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", of(builder.create_masked_load, 0))
        patch.setattr(builder, "create_masked_store", of(builder.create_masked_store, 1))
        patch.setattr(executor, "__call__", called)
        yield
