"""`convdsl train`, `eval` and `predict` as their users meet them."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

import convdsl
from convdsl.cli import main
from convdsl.errors import CATALOGUE
from convdsl.train.run import Place
from convdsl.train.run_folder import RunFolder
from tests.train_cases import TINY, arrays, fit, same, state

pytestmark = pytest.mark.usefixtures("quick_training")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in this process, in a folder with a network and data for it."""
    monkeypatch.delenv("CONVDSL_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("tiny.cnn").write_text(TINY)
    x, y = arrays(42)
    np.savez("a.npz", x=x.numpy(), y=y.numpy())

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert isinstance(exit.value.code, int)
        return exit.value.code, captured.out, captured.err

    return call


TRAIN = ("train", "tiny.cnn", "--data", "npz:a.npz", "--epochs", "2", "--batch", "8")
TRAIN = (*TRAIN, "--no-tensorboard")


def test_a_run_from_program_to_prediction(run: Run) -> None:
    code, out, err = run(*TRAIN)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.match(r"epoch 1/2  loss \d.*held-out loss .*accuracy .*images/s$", lines[0])
    assert "31 to train on, 11 held out" in out and "best epoch" in out
    folder = Path("runs/tiny-npz-1")
    for name in ("curves.png", "confusion.png"):
        with Image.open(folder / name) as image:
            assert image.format == "PNG" and image.width > 300
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "CONV(3) - RELU" in page
    assert "http" not in page and "<script" not in page
    summary = json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert summary["last"] == records[-1] and len(records) == 2
    assert np.sum(summary["evaluation"]["confusion"]) == 11

    code, out, err = run("eval", str(folder), "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["accuracy"] == pytest.approx(summary["best"]["val_accuracy"], abs=1e-6)
    assert json.loads(out)["loss"] == pytest.approx(summary["best"]["val_loss"], abs=1e-6)
    code, out, _ = run("eval", str(folder))
    assert code == 0 and "accuracy" in out and "of" in out

    Image.new("L", (20, 30), 90).save("grey.png")
    Path("bad.png").write_text("no")
    code, out, err = run("predict", str(folder), "grey.png", "bad.png", "--top", "2")
    assert code == 1 and "bad.png cannot be decoded: it is no picture" in err
    assert re.match(r"grey.png  \d 0\.\d{4}  \d 0\.\d{4}\n$", out)
    code, out, _ = run("predict", str(folder), "grey.png", "--format", "json", "--top", "9")
    chances = [c["probability"] for c in json.loads(out)["predictions"][0]["classes"]]
    assert code == 0 and len(chances) == 4 and sum(chances) == pytest.approx(1, abs=1e-5)
    # the next run gets the next number
    assert run(*TRAIN)[0] == 0 and Path("runs/tiny-npz-2/best").exists()


def test_an_ensemble_averages_its_members(run: Run) -> None:
    code, out, err = run(*TRAIN, "--ensemble", "2", "--out", "many")
    assert (code, err) == (0, "")
    assert "member 1/2: epoch 1/2" in out and "mean of members" in out and "ensemble " in out
    assert not same(
        state(Path("many/member-1"))["weights"], state(Path("many/member-2"))["weights"]
    )
    code, out, _ = run("eval", "many", "--format", "json")
    assert code == 0 and len(json.loads(out)["members"]) == 2
    code, out, err = run(*TRAIN, "--ensemble", "2", "--out", "many", "--resume")
    assert (code, err) == (0, "")


def test_another_number_of_classes(run: Run) -> None:
    assert run(*TRAIN, "--out", "first")[0] == 0
    x, y = arrays(42)
    np.savez("b.npz", x=x.numpy(), y=y.numpy() % 3)
    more = ("train", "tiny.cnn", "--data", "npz:b.npz", "--epochs", "1", "--out", "second")
    code, _, err = run(*more, "--init", "first", "--replace-head", "--freeze", "conv*")
    assert (code, err) == (0, "")
    first, second = state(Path("first")), state(Path("second"))
    assert second["weights"]["fc.weight"].shape[0] == 3
    assert "FC(3), SOFTMAX" in second["model"]["program"]["text"]
    best = Path("first/best").resolve().name == Path("first/last").resolve().name
    assert not best or same(first["weights"]["conv.weight"], second["weights"]["conv.weight"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--data", "npz:none.npz"), 2, ("error[E300]", "none.npz")),
        (("--data", "digit"), 1, ("error[E411]", "did you mean digits?")),
        (("--data", "digits"), 1, ("error[E412]", "1@8x8", "--resize")),
        (("--lr", "-1"), 1, ("error[E416]", "lr must lie in")),
        (("--augment", "flop"), 1, ("error[E415]", "did you mean flip?")),
        (("--optimizer", "adamx"), 2, ("Invalid value",)),
        (("--devices", "two"), 2, ("a number from 1 on, or auto",)),
        (("--devices", "0"), 2, ("a number from 1 on, or auto",)),
        (("--holdout", "nan"), 1, ("error[E410]", "nan cannot be held out")),
        (("--resume",), 2, ("--out DIR",)),
        (("--resume", "--out", "none"), 1, ("error[E421]", "no checkpoint")),
        (("--init", "none.safetensors"), 2, ("error[E300]",)),
        (("--freeze", "nothing*"), 1, ("error[E416]", "conv.weight")),
        (
            ("--accelerator", "cuda", "--devices", "3"),
            1,
            ("error[E416]", "no accelerator 'cuda' here"),
        ),
        (("-D", "N=2"), 1, ("error[E2",)),
    ],
)
def test_wrong_use_is_said_in_words(
    run: Run, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    got, out, err = run(*TRAIN, *arguments)
    assert (got, out) == (code, "")
    for word in words:
        assert word in err
    assert not list(Path("runs").glob("*/checkpoints/*"))


def test_eval_and_predict_refuse_what_is_no_run(run: Run) -> None:
    for command in (("eval", "."), ("predict", "none", "x.png")):
        code, out, err = run(*command)
        assert (code, out) == (1, "") and "error[E420]" in err


def test_every_code_of_training_is_tested() -> None:
    tests = "".join(p.read_text("utf-8") for p in Path(__file__).parent.glob("test_train_*.py"))
    missing = [code for code in CATALOGUE if code.startswith("E4") and f'"{code}"' not in tests]
    assert not missing


def test_the_commands_start_without_torch() -> None:
    source = (
        "import sys\nfrom convdsl.cli.commands import commands\n"
        "commands.main(['train', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


# as processes of their own, forked since torch takes seconds to start


def forked(output: int, *arguments: str, errors: int | None = None) -> int:
    """The command in a process whose output goes to file descriptors; its process id."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output if errors is None else errors, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            main(list(arguments))
        except SystemExit as exit:
            code = int(exit.code or 0)
        finally:
            with suppress(BrokenPipeError):
                sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wait_for(pattern: str) -> None:
    until = time.monotonic() + 60
    while not list(Path().glob(pattern)) and time.monotonic() < until:
        time.sleep(0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_goes_on_to_the_bit_from_wherever_it_was_stopped(run: Run, number: int) -> None:
    options = ("train", "tiny.cnn", "--data", "npz:a.npz", "--batch", "8", "--save-every", "3")
    options = (*options, "--schedule", "constant")
    with Path("log").open("w") as log:
        child = forked(log.fileno(), *options, "--epochs", "9999", "--out", "run")
        wait_for("run/checkpoints/step-*2*")
        os.kill(child, number)
        code = code_of(child)
    if number == signal.SIGKILL:
        assert code == -9
    else:
        assert code == 130 and "go on with --out run --resume" in Path("log").read_text()
    step = RunFolder(Path("run")).latest()[1]["model"]["step"]
    assert step >= 2
    epochs = ("--epochs", str(step // 4 + 2))
    assert run(*options, *epochs, "--out", "whole")[0] == 0
    assert run(*options, *epochs, "--out", "run", "--resume", "--force")[0] == 0
    assert same(state(Path("run"))["weights"], state(Path("whole"))["weights"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
def test_a_reader_that_goes_away_stops_the_run(run: Run) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with Path("errors").open("w") as errors:
        child = forked(writer, *TRAIN, "--out", "run", errors=errors.fileno())
        assert code_of(child) == 141
    assert Path("errors").read_text() == ""
    assert run(*TRAIN, "--out", "run", "--resume")[0] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
def test_a_terminal_sees_a_bar(run: Run) -> None:
    terminal, inner = pty.openpty()
    child = forked(inner, *TRAIN[:4], "--epochs", "20", "--batch", "8")
    os.close(inner)
    seen = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how the end of a terminal reads
            break
        if not piece:
            break
        seen += piece
    os.close(terminal)
    text = seen.decode()
    assert code_of(child) == 0
    for word in ("/20", "loss ", "accuracy 0", "images/s", "ETA", "held-out accuracy"):
        assert word in text
    assert "epoch  1/20  loss" not in text  # no lines of a log between


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    options = {"data": arrays(42), "text": TINY.replace(" - DROPOUT(0.2)", "")}
    place = Place(devices=2, strategy="ddp_fork", accelerator="cpu")
    one = fit(tmp_path / "one", **options)
    two = fit(tmp_path / "two", place=place, **options)
    a, b = state(tmp_path / "one")["weights"], state(tmp_path / "two")["weights"]
    assert all(torch.allclose(a[name], b[name], rtol=0, atol=1e-5) for name in a)
    for mine, theirs in zip(one.records, two.records, strict=True):
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-5)
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
        assert mine["val_accuracy"] == pytest.approx(theirs["val_accuracy"])
    for name, weight in two.network.state_dict().items():
        assert torch.equal(weight, b[name])


def _step(model: Any, x: Tensor, y: Tensor) -> None:
    optimizer = convdsl.SGD(model.parameters(), 0.1)
    model(x, y).backward()
    optimizer.step()


def _wrapped_step(rank: int, meeting: str, kind: str) -> None:
    """Of one of two processes: a step under a wrapper against the same step without it."""
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    network = convdsl.compile_text(TINY.replace(" - DROPOUT(0.2)", ""))
    torch.manual_seed(0)
    model, plain = network.module(), network.module()
    plain.load_state_dict(model.state_dict())
    x, y = arrays(8)
    _step(plain, x, y)
    if kind == "ddp":
        wrapped: Any = DistributedDataParallel(model)
    elif kind == "fsdp":
        cpu = torch.device("cpu")
        wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=cpu)
    else:
        wrapped = fully_shard(model)
    _step(wrapped, x[rank::2], y[rank::2])
    gather = FullyShardedDataParallel.summon_full_params if kind == "fsdp" else nullcontext
    with gather(wrapped):
        for got, expected in zip(model.parameters(), plain.parameters(), strict=True):
            full = got.full_tensor() if isinstance(got, DTensor) else got
            assert torch.allclose(full.view_as(expected), expected, atol=1e-6)
    torch.distributed.barrier()
    # without the end of the group: torch joins its threads with the lock that they may wait for
    os._exit(0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA does not survive a fork")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fully_shard"])
def test_a_generated_module_works_in_the_wrappers_of_torch(kind: str, tmp_path: Path) -> None:
    options: Any = {"nprocs": 2, "start_method": "fork"}
    start_processes(_wrapped_step, (str(tmp_path / "meeting"), kind), **options)
