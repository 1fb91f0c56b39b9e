"""`convdsl compile` is quick, frugal, and linear in the size of the program.

How work grows is told in calls of functions, which do not depend on the machine; the other limits
are ratios of processor times, several times what was measured, so neither a slow machine nor other
work on it fails them. `python -m benchmarks.compiler` prints the times themselves.
"""

from cProfile import Profile
from pathlib import Path

import pytest

from benchmarks.compiler import (
    NETWORKS,
    UNIT,
    deep,
    measure,
    measure_deep,
    measure_torchinfo,
)
from convdsl.cli import main

pytestmark = pytest.mark.slow


def test_resnet152_takes_little_longer_than_lenet5() -> None:
    """Measured: 1.7 times; most of either is starting up."""
    small, large = (measure(NETWORKS / f"{name}.cnn", runs=5) for name in ("lenet5", "resnet152"))
    assert large.processor < 5 * small.processor


def test_work_grows_with_the_layers_alone(tmp_path: Path) -> None:
    """Measured: 10.05 times the calls for 10 times the layers."""
    _calls(tmp_path, UNIT)  # imports and caches
    empty, small, large = (_calls(tmp_path, layers) for layers in (UNIT, 1_000, 10_000))
    assert large - empty < 10.5 * (small - empty)


def _calls(folder: Path, layers: int) -> int:
    """How many functions, Python's own ones included, are called to print the table of `deep`."""
    path = folder / "deep.cnn"
    path.write_text(deep(layers), encoding="utf-8")
    profile = Profile()
    with pytest.raises(SystemExit) as ending:
        profile.runcall(main, ["compile", str(path)])
    assert not ending.value.code
    return sum(entry.callcount for entry in profile.getstats())


def test_memory_stays_below_200_mb() -> None:
    assert measure_deep(10_000, runs=1).memory < 200e6


def test_the_table_costs_less_than_that_of_torchinfo() -> None:
    """Measured: a tenth of the time and a sixteenth of the memory."""
    pytest.importorskip("torchinfo")
    ours = measure(NETWORKS / "resnet18.cnn", runs=1)
    theirs = measure_torchinfo("resnet18", (3, 224, 224), runs=1)
    assert ours.processor < theirs.processor
    assert ours.memory < theirs.memory
