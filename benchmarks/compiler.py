"""Time and memory of `convdsl compile`: ``python -m benchmarks.compiler [FILE ...]``.

Each measurement is a process of its own, as a user starts one, with the table thrown away and
Python's bytecode cached by a run before: wall time and processor time (the least of several runs)
and the largest memory it held. Without files: the networks of `networks/`, those that torchvision
has beside torchinfo, which imports torch, builds the network and runs it once for the same table,
and generated ones of 1,000 and 10,000 layers, whose ratio tells whether the compiler's work grows
with the size of the program alone. Needs Linux; the peer needs torchinfo and torchvision.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from convdsl.compiler import compile

ROOT = Path(__file__).parent.parent
NETWORKS = (ROOT / "networks").resolve()
RUNS = 3
#: the command, and then the most memory it held, in KiB; what `wait4` tells of a process counts
#: also the one that started it
_PROGRAM = """
import sys
try:
    {run}
finally:
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""
_OURS = _PROGRAM.format(run="from convdsl.cli import main; main()")
_TORCHINFO = _PROGRAM.format(run="from benchmarks.torchinfo import main; main(*sys.argv[1:])")
#: file of `networks/` -> its name in torchvision
PEERS = {
    "alexnet_tv": "alexnet",
    **{name: name for name in ("vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19")},
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{name: name for name in ("googlenet", "inception_v3")},
}
#: layers of `deep` in one repetition of its block
UNIT = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """wall, processor: seconds. memory: bytes resident at most."""

    wall: float
    processor: float
    memory: int


def deep(layers: int) -> str:
    """A residual network of ``layers`` layers, a multiple of `UNIT`."""
    unit = "ADD{ CONV(8, bias=false) - BN | ID } - RELU"
    return f"input 8@16x16\nblock unit = {unit}\nnet Deep = unit*{layers // UNIT}\n"


def measure(path: Path, runs: int = RUNS) -> Cost:
    """The least cost of compiling ``path`` in ``runs`` processes. RuntimeError if one fails."""
    return _measure([_OURS, "compile", str(path)], runs)


def measure_torchinfo(name: str, size: Sequence[int], runs: int = RUNS) -> Cost:
    """The same of torchinfo's summary of torchvision's network for one input of (C, H, W)."""
    return _measure([_TORCHINFO, name, *map(str, size)], runs)


def _measure(arguments: Sequence[str], runs: int) -> Cost:
    _once(arguments)  # warms the caches
    costs = [_once(arguments) for _ in range(runs)]
    return Cost(
        min(cost.wall for cost in costs),
        min(cost.processor for cost in costs),
        min(cost.memory for cost in costs),
    )


def measure_deep(layers: int, runs: int = RUNS) -> Cost:
    """`measure` of a generated network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.cnn"
        path.write_text(deep(layers), encoding="utf-8")
        return measure(path, runs)


def growth(small: Cost, large: Cost, empty: Cost) -> float:
    """Ratio of the processor times of two programs, that of starting up taken from both."""
    return (large.processor - empty.processor) / (small.processor - empty.processor)


@cache
def _bytecode() -> "tempfile.TemporaryDirectory[str]":
    """A folder for bytecode that lives as long as this process, whatever its own settings are."""
    return tempfile.TemporaryDirectory()


def _once(arguments: Sequence[str]) -> Cost:
    command = [sys.executable, "-c", *arguments]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": _bytecode().name}
    environment["PYTHONPATH"] = str(ROOT)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as errors:
        outlets = [
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors.fileno(), 2),
        ]
        start = time.perf_counter()
        process = os.posix_spawn(command[0], command, environment, file_actions=outlets)
        _, status, usage = os.wait4(process, 0)
        wall = time.perf_counter() - start
        errors.seek(0)
        *_, last = errors.read().split()
    if status:
        ending = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"`{' '.join(arguments[1:])}` ends with {ending}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, int(last) * 1024)


def _has_peer() -> bool:
    return all(find_spec(name) is not None for name in ("torchinfo", "torchvision"))


def _show(name: str, cost: Cost, peer: Cost | None = None) -> None:
    text = f"{name:24} {cost.wall:8.2f} s {cost.processor:12.2f} s {cost.memory / 2**20:9.1f} MiB"
    if peer is not None:
        text += f" {peer.wall:11.2f} s {peer.memory / 2**20:9.1f} MiB"
        text += f" {peer.wall / cost.wall:11.1f} {peer.memory / cost.memory:8.1f}"
    print(text, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for every program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiler", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="programs to compile")
    parser.add_argument("--runs", type=int, default=RUNS, help="processes for each program")
    given = parser.parse_args(arguments)
    print(
        f"{'program':24} {'wall':>10} {'processor':>14} {'memory':>13}"
        f" {'torchinfo':>13} {'memory':>13} {'wall ratio':>11} {'memory':>8}"
    )
    for path in given.files or sorted(NETWORKS.glob("*.cnn")):
        name = PEERS.get(path.stem) if path.resolve().parent == NETWORKS and _has_peer() else None
        peer = None
        if name is not None:
            size = compile(path).graph.inputs[0].type.shape
            peer = measure_torchinfo(name, size, given.runs)
        _show(path.stem, measure(path, given.runs), peer)
    if given.files:
        return
    costs = {layers: measure_deep(layers, given.runs) for layers in (UNIT, 1_000, 10_000)}
    for layers, cost in costs.items():
        _show(f"{layers:,} layers", cost)
    ratio = growth(costs[1_000], costs[10_000], costs[UNIT])
    print(f"10,000 : 1,000 layers = {ratio:.1f} in processor time, without starting up")


if __name__ == "__main__":
    main()
