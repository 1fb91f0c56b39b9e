"""Training on a device, `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

import convdsl
from convdsl.train.run import Place
from tests.train_cases import TINY, fit, same, state

pytestmark = pytest.mark.gpu

LEARNING = TINY.replace(" - DROPOUT(0.2)", "")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_network_learns_in_every_precision(precision: str) -> None:
    history = fit(epochs=12, text=LEARNING, precision=precision)
    assert history.accuracy == 1.0
    assert next(history.network.parameters()).dtype == torch.float32


def test_a_resumed_run_is_equal_to_the_bit(tmp_path: Path) -> None:
    fit(tmp_path / "whole", save_every=1)
    fit(tmp_path / "run", save_every=1)
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))
    (tmp_path / "run" / "checkpoints" / "step-000000012" / "checkpoint.json").unlink()
    fit(tmp_path / "run", save_every=1, resume=True)
    assert same(state(tmp_path / "run")["weights"], state(tmp_path / "whole")["weights"])


def test_a_step_is_a_graph_and_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    keep = convdsl.LitNetwork.on_train_epoch_end

    def look(lit: convdsl.LitNetwork) -> None:
        steps.append(lit._step)
        keep(lit)

    monkeypatch.setattr(convdsl.LitNetwork, "on_train_epoch_end", look)
    fit(tmp_path / "graph")
    assert steps[-1].captured
    monkeypatch.setattr("convdsl.train.run._at_once", lambda *_: False)
    fit(tmp_path / "calls")
    assert same(state(tmp_path / "graph")["weights"], state(tmp_path / "calls")["weights"])


def test_fully_sharded_on_one_device(tmp_path: Path) -> None:
    history = fit(tmp_path, text=LEARNING, place=Place(strategy="fsdp"))
    assert len(history.records) == 3
    assert (tmp_path / "last" / "weights.safetensors").is_file()
