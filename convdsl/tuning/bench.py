"""The current device as the bench that `convdsl.tuning.search` asks.

Builds for its architecture, in processes of their own, so that what spills or takes too much shared
memory is never run; times CUDA graphs with the L2 cache emptied before every call.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from convdsl.ir.graph import Value
from convdsl.runtime.load import load_text
from convdsl.tuning.build import TARGETS, Target, build_all
from convdsl.tuning.candidates import Machine
from convdsl.tuning.check import SAMPLES, Operands, is_right
from convdsl.tuning.device import Cuda
from convdsl.tuning.plan import Kernel, kernel_of
from convdsl.tuning.search import Built, Part
from convdsl.tuning.timing import interleave

ROUNDS = 5


class DeviceBench:
    """See `convdsl.tuning.search.Bench`."""

    def __init__(self, batch: int, dtype: torch.dtype, name: str) -> None:
        """name: ``bf16``, ``fp16`` or ``fp32``, of the dtype."""
        self.batch, self.dtype, self.name = batch, dtype, name
        self.size = dtype.itemsize
        self.device = Cuda()
        self.machine = machine()
        self.target = target()

    def build(self, parts: Sequence[Part]) -> list[Built | None]:
        kernels = [_product(part, self.name) for part in parts]
        builds = [(kernel, self.target) for kernel in kernels]
        facts = build_all(builds, workers=os.cpu_count() or 2, failing=True)
        found = [facts.get(build) for build in builds]
        return [None if f is None else Built(f.registers, f.spills, f.shared) for f in found]

    def is_right(self, part: Part) -> bool:
        operands = Operands(part.graph, SAMPLES, self.dtype, "cuda")
        run = load_text(part.piece.text, "tuned").run
        return is_right(part.graph, part.nodes, part.piece, run, operands)

    def seconds(self, runs: Mapping[str, Part]) -> dict[str, float]:
        """Raises ValueError if the batch does not fit into the device's memory."""
        tensors: dict[Value, Tensor] = {}
        try:
            calls = {name: self.device.graph(self._call(p, tensors)) for name, p in runs.items()}
            times = interleave(calls, ROUNDS, clock=self._clock)
        except torch.OutOfMemoryError:
            hint = "tune with a smaller one"
            raise ValueError(f"a batch of {self.batch} does not fit the device: {hint}") from None
        finally:
            tensors.clear()
            self.device.free()
        return {name: taken.median for name, taken in times.items()}

    def _clock(self, run: Any, calls: int) -> float:
        return self.device.seconds(run, calls, flush=True)

    def _call(self, part: Part, tensors: dict[Value, Tensor]) -> Any:
        """All parts of one question read the same tensors."""
        operands = Operands(part.graph, self.batch, self.dtype, "cuda")
        for value in part.piece.given:
            if value not in tensors:
                tensors[value] = operands.stored(value, operands.logical(value))
        given = [tensors[value] for value in part.piece.given]
        run = load_text(part.piece.text, "tuned").run
        seed = torch.zeros(1, dtype=torch.int64, device="cuda")
        return lambda: run(self.batch, seed, 1, *given)


def _product(part: Part, dtype: str) -> Kernel:
    """The build of the part's product, which is the launch with the tile."""
    masters = {p.value for p in part.graph.parameters if len(p.value.type.shape) <= 1}
    launch = next(x for x in part.piece.launches if "BLOCK_K" in x.arguments)
    return kernel_of(launch, part.piece.text, masters, dtype, part.graph.name)


def machine() -> Machine:
    """Of the current device; rates that its driver does not tell are those of an H200."""
    of = torch.cuda.get_device_properties(0)
    shared = getattr(of, "shared_memory_per_block_optin", 64 * 1024)
    boxes = not torch.version.hip and of.major >= 9
    return Machine(of.multi_processor_count, shared + 1024, shared, boxes=boxes)


def target() -> Target:
    """What Triton builds for the current device."""
    of = torch.cuda.get_device_properties(0)
    limit = machine().shared_limit
    if torch.version.hip:
        name = of.gcnArchName.partition(":")[0]
        known = TARGETS.get(name)
        return known or Target(name, "hip", name, of.warp_size, limit, "mfma")
    capability = of.major * 10 + of.minor
    known = TARGETS.get(f"sm_{capability}")
    return known or Target(f"sm_{capability}", "cuda", capability, 32, limit, "mma_sync")
