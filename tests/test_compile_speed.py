"""`convdsl compile` is quick, frugal, and linear in the size of the program.

Ratios of processor times, the least of several processes: neither a slow machine nor other work on
it must fail these. `python -m benchmarks.compiler` prints the times themselves.
"""

import pytest

from benchmarks.compiler import (
    NETWORKS,
    UNIT,
    growth,
    measure,
    measure_deep,
    measure_torchinfo,
)

pytestmark = pytest.mark.slow


def test_resnet152_takes_little_longer_than_lenet5() -> None:
    """Measured: 1.7 times; most of either is starting up."""
    small, large = (measure(NETWORKS / f"{name}.cnn", runs=5) for name in ("lenet5", "resnet152"))
    assert large.processor < 5 * small.processor


def test_time_grows_with_the_layers_and_memory_stays_below_200_mb() -> None:
    empty, small, large = (measure_deep(layers) for layers in (UNIT, 1_000, 10_000))
    assert growth(small, large, empty) < 14
    assert large.memory < 200e6


def test_the_table_costs_less_than_that_of_torchinfo() -> None:
    """Measured: a tenth of the time and a sixteenth of the memory."""
    pytest.importorskip("torchinfo")
    ours = measure(NETWORKS / "resnet18.cnn", runs=1)
    theirs = measure_torchinfo("resnet18", (3, 224, 224), runs=1)
    assert ours.processor < theirs.processor
    assert ours.memory < theirs.memory
