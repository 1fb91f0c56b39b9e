"""``python -m benchmarks.gpu``: measure on a CUDA device, print tables, write JSON.

    python -m benchmarks.gpu                                      # all, for eight minutes
    python -m benchmarks.gpu --part train --network resnet50      # one network beside all peers
    python -m benchmarks.gpu --part conv --network vgg16 --json vgg16.json
    python -m benchmarks.gpu --device cpu --quick                 # try it out without a device

A call ends in time and says what it left out, and why; compiled kernels stay in Triton's and
torch's caches, so that a second call gets further. Without a CUDA device it exits with 2.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu import ceilings, record
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.conv import convolutions
from benchmarks.gpu.networks import DTYPES, QUICK, batch_of
from benchmarks.gpu.parity import parity
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.train import train
from benchmarks.traffic import BATCHES
from convdsl.tuning.device import Cpu, Cuda, Device

PARTS = ("bandwidth", "matmul", "conv", "train", "parity")
#: the parts that run on a CPU
QUICK_PARTS = ("bandwidth", "matmul", "train", "parity")
#: three float32 curves of hundreds of steps want less than a training step's batch
PARITY_BATCH = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; the exit status."""
    given = _arguments(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible: --device cpu --quick tries it out", file=sys.stderr)
        return 2
    device: Device = Cuda() if given.device == "cuda" else Cpu()
    torch.backends.cudnn.benchmark = True
    budget = Budget(60 * given.minutes, given.prepare)
    result = record.Record(
        {**record.head(device), "minutes": given.minutes, "dtype": given.dtype}, given.json
    )
    if given.quick:
        print("tried out at small sizes: the figures mean nothing")
    dtype = DTYPES[given.dtype]
    rates = [
        # training steps are held against both
        _ceiling(result, part, unit, run, budget, device)
        if {part, "train"} & set(given.part)
        else None
        for part, unit, run in (
            ("bandwidth", "bytes_per_s", partial(ceilings.bandwidth, device, given.quick)),
            ("matmul", "flop_per_s", partial(ceilings.products, device, dtype, given.quick)),
        )
    ]
    try:
        for name in given.network:
            _network(name, given, device, budget, result, (rates[0], rates[1]))
    except torch.AcceleratorError as error:  # a device that has failed stays so
        result.add("failed", str(error))
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


def _network(
    name: str,
    given: argparse.Namespace,
    device: Device,
    budget: Budget,
    result: record.Record,
    ceiling: tuple[float | None, float | None],
) -> None:
    """Run the parts that work on networks."""
    batch = batch_of(name, given.batch, given.quick)
    common = (device, budget)
    if "train" in given.part:
        save = partial(result.add, "train", network=name)
        train(name, batch, given.dtype, given.peer, *common, given.quick, ceiling, save)
        _show(record.training(name, result.content["train"][name]))
    if "conv" in given.part:
        save = partial(result.add, "conv", network=name)
        convolutions(name, batch, given.dtype, *common, save)
        _show(record.convolution(name, result.content["conv"][name]))
    if "parity" in given.part:
        batch = given.batch or min(batch, PARITY_BATCH)
        made = parity(name, batch, given.dtype, *common, given.quick)
        result.add("parity", made, name)
        _show(record.curves(name, made))


def _ceiling(
    result: record.Record,
    part: str,
    unit: str,
    run: Callable[[], dict[str, ceilings.Ceiling]],
    budget: Budget,
    device: Device,
) -> float | None:
    """The measured rate, which is shown and recorded."""
    found = budget.attempt(run)
    device.free()
    if isinstance(found, str):
        result.add(part, {"skipped": found})
        print(f"{part} skipped: {found}")
        return None
    made = ceilings.record(found, unit)
    result.add(part, made)
    _show(record.ceilings(made))
    return ceilings.best(found)


def _show(lines: Iterable[str]) -> None:
    print("\n".join(lines), flush=True)


def _names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads ``bandwidth,matmul``."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; choose {', '.join(known)}")
        return names

    return read


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", type=_names(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--network", nargs="+", choices=[*BATCHES, *QUICK.keys() - BATCHES], metavar="NETWORK"
    )
    parser.add_argument("--peer", type=_names(PEERS), default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--batch", type=_positive, help="instead of each network's own")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="to end within")
    parser.add_argument(
        "--prepare", type=float, default=200.0, help="seconds one candidate may take", metavar="S"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="small sizes: figures mean nothing")
    given = parser.parse_args(arguments)
    if given.device == "cpu" and not given.quick:
        parser.error("a CPU only tries the benchmark out: add --quick")
    given.part = given.part or (QUICK_PARTS if given.quick else PARTS)
    given.network = given.network or list(QUICK if given.quick else BATCHES)
    return given


if __name__ == "__main__":
    sys.exit(main())
