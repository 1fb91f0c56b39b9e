"""``python -m benchmarks.cpu``: time ours and its peers in turn; print ratios, write JSON.

    python -m benchmarks.cpu                        # all of it
    python -m benchmarks.cpu --network lenet5 --part training
    python -m benchmarks.cpu --way eager            # without torch.compile
    python -m benchmarks.cpu --json times.json
    python -m benchmarks.cpu --processor --threads 1   # where the machine has other work, too

A row shows the median of our better way and of the best peer, how far apart the middle half of
the rounds lies, and the median of the rounds' ratios best peer / ours: above 1, ours is quicker.
Before anything is timed, all must agree on two losses, or on the logits. Without a C++ compiler,
which torch.compile needs, only eager is run. ``--processor`` takes processor time instead of the
wall's, summed over the threads: other work disturbs it less, but with several threads it counts
their waiting.
"""

import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.cpu.contest import (
    FILES,
    PARTS,
    PRECISIONS,
    WAYS,
    Case,
    can_compile,
    check_agreement,
    contenders,
    make_run,
)
from benchmarks.cpu.page import update as write
from convdsl.tuning.timing import ROUND, Clock, Times, interleave


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice(sorted(FILES)))
@click.option("--precision", "precisions", multiple=True, type=click.Choice(PRECISIONS))
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS))
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=15, show_default=True, type=click.IntRange(1))
@click.option("--threads", type=click.IntRange(1), help="default: as torch chooses")
@click.option("--processor", is_flag=True, help="processor time instead of wall time")
@click.option("--quick", is_flag=True, help="seconds: digits in fp32, eager, two short rounds")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--update", is_flag=True, help="write benchmarks/results/cpu.json, docs/performance.md"
)
def main(
    networks: tuple[str, ...],
    precisions: tuple[str, ...],
    parts: tuple[str, ...],
    ways: tuple[str, ...],
    batch: int,
    rounds: int,
    threads: int | None,
    processor: bool,
    quick: bool,
    file: Path | None,
    update: bool,
) -> None:
    """Time ours and its peers; the first four options may be given several times."""
    if threads:
        torch.set_num_threads(threads)
    if quick:
        networks, precisions = networks or ("digits",), precisions or ("fp32",)
        ways, rounds = ways or ("eager",), 2
    ways = ways or WAYS
    if not can_compile() and "compiled" in ways:
        click.echo("no C++ compiler, so no torch.compile: eager only", err=True)
        ways = ("eager",)
    rows: list[dict[str, Any]] = []
    clock_name = "processor" if processor else "wall"
    document = {"machine": machine(), "clock": clock_name, "cases": rows}
    click.echo(HEAD)
    chosen = product(networks or tuple(FILES), precisions or PRECISIONS, parts or PARTS)
    for network, precision, part in chosen:
        case = Case(network, precision, part, batch)
        clock = processor_seconds if processor else None
        times = measure(case, ways, rounds, 0.001 if quick else ROUND, clock)
        click.echo(line(case, times))
        rows.append(row(case, times))
        if file is not None:  # after every case, so that a run that is cut short leaves something
            file.write_text(json.dumps(document, indent=1) + "\n")
    if update:
        write(document)


def measure(
    case: Case, ways: tuple[str, ...], rounds: int, round_seconds: float, clock: Clock | None
) -> dict[str, Times]:
    """By contender. Raises ValueError if they do not agree."""
    runs = {c.name: make_run(c, case) for c in contenders(case, ways)}
    check_agreement(runs, case)
    times = interleave(runs, rounds, clock=clock, round_seconds=round_seconds)
    del runs
    torch.compiler.reset()
    gc.collect()
    return times


def processor_seconds(run: Callable[[], object], calls: int) -> float:
    """Processor time a call, of all threads together."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return (time.process_time() - start) / calls


HEAD = (
    f"{'network':16}{'precision':10}{'part':11}{'ours':>11} {'+-':>4}  {'':9}"
    f"{'best peer':>11} {'+-':>4}  {'':22}{'ratio':>6}"
)


def best(times: dict[str, Times], ours: bool) -> str:
    """The name of our quickest contender, or of the peers'."""
    mine = {n: t.median for n, t in times.items() if n.startswith("ours") is ours}
    return min(mine, key=lambda name: mine[name])


def ratio(times: dict[str, Times]) -> float:
    """Best peer / ours, the median over the rounds: above 1, ours is quicker.

    Round by round, because a machine is slower in some minutes than in others.
    """
    mine, theirs = times[best(times, True)].rounds, times[best(times, False)].rounds
    return statistics.median(b / a for a, b in zip(mine, theirs, strict=True))


def line(case: Case, times: dict[str, Times]) -> str:
    """A row of the table."""
    mine, theirs = best(times, True), best(times, False)
    a, b = times[mine], times[theirs]
    return (
        f"{case.network:16}{case.precision:10}{case.part:11}"
        f"{a.median * 1e3:8.3f} ms {a.spread:4.0%}  {mine.removeprefix('ours '):9}"
        f"{b.median * 1e3:8.3f} ms {b.spread:4.0%}  {theirs:22}{ratio(times):6.2f}"
    )


def row(case: Case, times: dict[str, Times]) -> dict[str, Any]:
    """A case as JSON: seconds by contender."""
    figures = {
        name: {"median": t.median, "spread": t.spread, "rounds": list(t.rounds)}
        for name, t in times.items()
    }
    return {
        **asdict(case),
        "commit": _commit(),
        "seconds": figures,
        "ours": best(times, True),
        "peer": best(times, False),
        "ratio": ratio(times),
    }


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    return {
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu() -> str:
    """The processor's name as the system tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8").splitlines() if facts.exists() else []
    names = (fact.partition(":")[2].strip() for fact in lines if fact.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str:
    """The commit of the checkout, with ``-dirty`` behind it where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
