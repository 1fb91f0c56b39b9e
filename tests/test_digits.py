"""examples/digits.py, as a user runs it: accuracy, equal losses on both targets, bad options."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

SCRIPT = Path(__file__).parent.parent / "examples" / "digits.py"


def run(*options: str) -> "subprocess.CompletedProcess[str]":
    """The script in a process of its own, away from the folder it lies in."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        env=environment,
        cwd=SCRIPT.anchor,
        check=False,
    )


def losses(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[float]:
    """In this process, whose interpreter takes less time, and of a few pictures a step."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--steps", "2", "--target", target])
    names = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(names["train"].__globals__, "BATCH", 7)
    names["main"]()
    printed = capsys.readouterr().out
    return [float(loss) for loss in re.findall(r"^step \d+: loss (\S+)$", printed, re.M)]


def test_both_targets_train_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = losses("torch", monkeypatch, capsys)
    kernels = losses("triton", monkeypatch, capsys)
    assert len(plain) == len(kernels) == 2
    assert plain[0] != plain[1]
    assert kernels == pytest.approx(plain, abs=1e-4)


def test_one_seed_reads_the_digits() -> None:
    done = run("--seeds", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    accuracy = re.search(r"^seed 0: test accuracy (\S+)$", done.stdout, re.M)
    assert accuracy is not None, done.stdout
    assert float(accuracy[1]) >= 0.975


@pytest.mark.parametrize("options", [["--target", "jax"], ["--steps", "0"], ["--seeds", "few"]])
def test_bad_options_are_usage_errors(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_kernels_without_a_device_are_refused_in_words() -> None:
    done = run("--target", "triton")
    assert done.returncode == 1
    assert "needs a CUDA or ROCm device" in done.stderr
