"""`convdsl compile` is quick, frugal, and linear in the size of the program.

Processor times, the least of several processes: other work on the machine must not fail these.
"""

import pytest

from benchmarks.compiler import NETWORKS, UNIT, growth, measure, measure_deep

pytestmark = pytest.mark.slow


def test_resnet152_takes_less_than_half_a_second() -> None:
    assert measure(NETWORKS / "resnet152.cnn", runs=5).processor < 0.5


def test_time_grows_with_the_layers_and_memory_stays_below_200_mb() -> None:
    empty, small, large = (measure_deep(layers) for layers in (UNIT, 1_000, 10_000))
    assert growth(small, large, empty) < 14
    assert large.memory < 200e6
