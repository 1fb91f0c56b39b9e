"""Parameters shared out among two processes on the CPU, `--strategy fsdp`."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import convdsl
from convdsl.train.keeper import InterruptedRun
from convdsl.train.problem import TrainingError
from convdsl.train.run import Place
from tests.test_train_fit import stop_at
from tests.train_cases import arrays, fit, same, state

pytestmark = [
    pytest.mark.usefixtures("quick_training"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork"),
]

TEXT = "input 1@4x4\nnet Tiny = CONV(3) - BN - RELU - FC(4), SOFTMAX\n"
PLAIN = TEXT.replace(" - BN", "")
SHARED = Place(devices=2, strategy="fsdp", accelerator="cpu")


def run(folder: Path, **options: Any) -> Any:
    return fit(folder, **{"text": TEXT, "data": arrays(42), **options})


def in_two_processes(work: Callable[..., None], *arguments: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_as_one_of_two, (port, work, *arguments), nprocs=2, start_method="fork")


def _as_one_of_two(rank: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    rank_zero_only.rank = rank  # a process that is not forked finds it there
    work(*arguments)


def _whole_and_in_pieces(root: Path) -> None:
    options: dict[str, Any] = {"place": SHARED, "frozen": ["conv.bias"]}
    run(root / "whole", **options)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRun):
        stop_at(patch, 6)
        run(root / "pieces", **options)
    history = run(root / "pieces", resume=True, **options)
    assert len(history.records) == 3


def test_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    in_two_processes(_whole_and_in_pieces, tmp_path)
    assert same(state(tmp_path / "pieces"), state(tmp_path / "whole"))


def _broken_in_one(folder: Path) -> None:
    step = convdsl.LitNetwork.training_step

    def broken(lit: convdsl.LitNetwork, batch: Any, index: int) -> Tensor:
        if index == 2 and lit.global_rank == 1:
            batch = batch._replace(inputs=(batch.inputs[0] / 0,))
        return step(lit, batch, index)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TrainingError) as caught:
        patch.setattr(convdsl.LitNetwork, "training_step", broken)
        run(folder, place=SHARED)
    assert caught.value.diagnostic.code == "E430"
    assert ("another process" in str(caught.value)) == (os.environ["LOCAL_RANK"] == "0")


def test_a_loss_that_is_not_finite_stops_all_processes(tmp_path: Path) -> None:
    in_two_processes(_broken_in_one, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def _go_on(folder: Path) -> None:
    run(folder, text=PLAIN, place=SHARED, resume=True)


def test_it_goes_on_with_the_run_of_one_process(tmp_path: Path) -> None:
    run(tmp_path, text=PLAIN)
    whole = state(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000012")
    in_two_processes(_go_on, tmp_path)
    mine, theirs = state(tmp_path), whole
    for name, weight in theirs["weights"].items():
        assert torch.allclose(mine["weights"][name], weight, rtol=0, atol=1e-5)
    (mine,), (theirs,) = (found["training"]["optimizer_states"] for found in (mine, theirs))
    assert same(mine["param_groups"], theirs["param_groups"])
    for number, moments in theirs["state"].items():
        for name, moment in moments.items():
            assert torch.allclose(mine["state"][number][name], moment, rtol=1e-3, atol=1e-6)
