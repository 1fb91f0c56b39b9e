"""The device that is measured: its clock, its graphs, its name.

`Cuda` times with events on the device and can empty the L2 cache before a call; `Cpu` runs the same
benchmarks where there is none, to try them out.
"""

import gc
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Run = Callable[[], object]

#: calls on the capturing stream before a CUDA graph is captured
WARM_UPS = 3
#: what is written to empty the L2 cache, in multiples of it
FLUSH = 4


class Device(Protocol):
    """What the benchmarks ask of a device. ``type`` is torch's name of its kind."""

    type: str

    def facts(self) -> dict[str, Any]:
        """Name, memory in bytes and driver, for the record."""
        ...

    def seconds(self, run: Run, calls: int, flush: bool = False) -> float:
        """Seconds a call of ``run``. flush: none finds its operands in the L2 cache."""
        ...

    def graph(self, run: Run) -> Run:
        """``run`` as one launch where the device has CUDA graphs: the same tensors every time."""
        ...

    def free(self) -> None:
        """Give back memory that nobody holds."""
        ...


class Cpu:
    """The host: no graphs, and its caches stay as they are."""

    type = "cpu"

    def facts(self) -> dict[str, Any]:
        return {"name": platform.processor() or platform.machine(), "memory": None, "driver": None}

    def seconds(self, run: Run, calls: int, flush: bool = False) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def graph(self, run: Run) -> Run:
        return run

    def free(self) -> None:
        pass


class Cuda:
    """The current CUDA or ROCm device."""

    type = "cuda"

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(0).L2_cache_size
        self.cache = torch.empty(FLUSH * size, dtype=torch.int8, device="cuda")

    def facts(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": properties.name,
            "memory": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "driver": _driver(),
        }

    def seconds(self, run: Run, calls: int, flush: bool = False) -> float:
        if flush:
            return sum(self._between(run, 1, flush) for _ in range(calls)) / calls
        return self._between(run, calls, flush) / calls

    def _between(self, run: Run, calls: int, flush: bool) -> float:
        torch.cuda.synchronize()
        start, end = (_event() for _ in range(2))
        if flush:  # takes the device long enough for the host to queue what follows
            self.cache.zero_()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        seconds: float = start.elapsed_time(end) / 1e3
        return seconds

    def graph(self, run: Run) -> Run:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = run()

        def replay() -> object:
            graph.replay()
            return kept

        return replay

    def free(self) -> None:
        gc.collect()  # compiled functions hold themselves
        torch.cuda.empty_cache()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _driver() -> str | None:
    """The driver's version as nvidia-smi tells it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return text.splitlines()[0].strip() if text.strip() else None
