"""What the device can do at best, measured: memory by a large copy, arithmetic by matrix products.

The products are the vendor library's, of square bf16 (or fp16) matrices. These are the ceilings
that rooflines are drawn with; data sheets are not consulted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from convdsl.tuning.device import Device
from convdsl.tuning.timing import Times, interleave

ROUNDS = 5
ROUND_SECONDS = 0.1
#: bytes of each of the two tensors of the copy, and sides of the matrices
COPY, SIDES = 2**31, (4096, 6144, 8192)
QUICK_COPY, QUICK_SIDES = 2**22, (128, 256)


@dataclass(frozen=True, slots=True)
class Ceiling:
    """work: bytes or floating-point operations of a call."""

    work: int
    times: Times

    @property
    def rate(self) -> float:
        """Work a second, at the median."""
        return self.work / self.times.median


def bandwidth(device: Device, quick: bool) -> dict[str, Ceiling]:
    """Bytes read and written a second by a copy of one tensor to another."""
    size = QUICK_COPY if quick else COPY
    source, target = (torch.zeros(size, dtype=torch.int8, device=device.type) for _ in range(2))
    return _measure(device, {f"copy {size >> 20} MiB": (2 * size, partial(target.copy_, source))})


def products(device: Device, dtype: torch.dtype, quick: bool) -> dict[str, Ceiling]:
    """Floating-point operations a second of products of square matrices."""
    runs: dict[str, tuple[int, Callable[[], object]]] = {}
    for side in QUICK_SIDES if quick else SIDES:
        a, b, c = (torch.randn(side, side, device=device.type).to(dtype) for _ in range(3))
        runs[f"matmul {side}"] = (2 * side**3, partial(torch.mm, a, b, out=c))
    return _measure(device, runs)


def best(ceilings: dict[str, Ceiling]) -> float | None:
    """The highest rate."""
    return max((ceiling.rate for ceiling in ceilings.values()), default=None)


def record(ceilings: dict[str, Ceiling], unit: str) -> dict[str, Any]:
    """For the JSON file."""
    return {
        name: {"median_s": c.times.median, "spread": c.times.spread, unit: c.rate}
        for name, c in ceilings.items()
    }


def _measure(
    device: Device, runs: dict[str, tuple[int, Callable[[], object]]]
) -> dict[str, Ceiling]:
    times = interleave(
        {name: run for name, (_, run) in runs.items()},
        ROUNDS,
        clock=device.seconds,
        round_seconds=ROUND_SECONDS,
    )
    return {name: Ceiling(work, times[name]) for name, (work, _) in runs.items()}
