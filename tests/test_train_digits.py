"""How well the defaults train, on scikit-learn's digits."""

from pathlib import Path
from statistics import mean

import pytest

import convdsl
from convdsl.train.data.read import read
from convdsl.train.evaluate import evaluate
from convdsl.train.trained import load_trained

pytestmark = pytest.mark.usefixtures("quick_training")
NETWORK = Path(__file__).parent.parent / "networks" / "digits.cnn"


def test_a_short_run_reads_the_digits() -> None:
    history = convdsl.fit(NETWORK, "digits", epochs=6, progress=None)
    assert history.accuracy >= 0.98


@pytest.mark.slow
def test_the_figures_of_the_digits_are_met(tmp_path: Path) -> None:
    single, narrow = (
        mean(
            convdsl.fit(NETWORK, "digits", seed=seed, precision=p, progress=None).accuracy
            for seed in range(5)
        )
        for p in ("fp32", "bf16")
    )
    assert single >= 0.988
    assert abs(narrow - single) <= 0.005
    for seed in range(5):
        out = tmp_path / f"member-{seed}"
        convdsl.fit(NETWORK, "digits", seed=seed, split_seed=0, out=out, progress=None)
    trained = load_trained(tmp_path)
    found = evaluate(trained, read("digits", trained.request).test)
    assert found.accuracy is not None
    assert found.accuracy >= max(0.992, mean(found.members))
