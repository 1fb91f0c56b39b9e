"""Checkpoints: written whole or not at all, and nothing is believed that is not whole."""

import errno
import json
import os
import pickle
import shutil
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import convdsl
from convdsl.train import checkpoint, program
from convdsl.train.data.parts import Arrays, Data
from convdsl.train.problem import TrainingError
from convdsl.train.run_folder import RunFolder, checkpoint_of, fresh
from convdsl.train.trained import load_trained
from convdsl.train.transfer import initialise, read_weights
from tests.train_cases import TINY, arrays, fit, same, state

pytestmark = pytest.mark.usefixtures("quick_training")

MODEL = {"classes": ["a"], "tuple": (1, (2.5, None)), "keys": {0: "x", 7: float("inf")}}
TRAINING = {"optimizer": {0: {"step": torch.tensor(3.0), "on": True}}, "nan": float("nan")}
WEIGHTS = {"w": torch.arange(6.0).reshape(2, 3).T, "h": torch.ones(3, dtype=torch.bfloat16)}


def refused(run: Callable[[], Any], *words: str, code: str = "E420") -> None:
    with pytest.raises(TrainingError) as caught:
        run()
    assert caught.value.diagnostic.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


# form


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", WEIGHTS, MODEL, TRAINING)
    assert same(
        checkpoint.load(tmp_path / "a"), {"weights": WEIGHTS, "model": MODEL, "training": TRAINING}
    )
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "checkpoint.json", "state.safetensors", "weights.safetensors",
    ]  # fmt: skip
    json.loads((tmp_path / "a" / "checkpoint.json").read_text(), parse_constant=pytest.fail)


def test_what_json_cannot_hold_is_a_fault_of_ours(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"training\.f"):
        checkpoint.save(tmp_path / "a", {}, {}, {"f": object()})
    assert not list(tmp_path.iterdir())


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda a: (a / "checkpoint.json").unlink(), "no checkpoint.json"),
    "torn json": (lambda a: cut(a / "checkpoint.json", 99), "torn"),
    "another json": (lambda a: (a / "checkpoint.json").write_text("[1]"), "not one of convdsl"),
    "deep json": (lambda a: (a / "checkpoint.json").write_text("[" * 200_000), "torn"),
    "binary json": (lambda a: (a / "checkpoint.json").write_bytes(b"\xff\xfe"), "no text"),
    "newer": (lambda a: changed(a / "checkpoint.json", schema=2), "version 2"),
    "foreign": (lambda a: changed(a / "checkpoint.json", format="x"), "not one of convdsl"),
    "no files": (lambda a: changed(a / "checkpoint.json", files=None), "lists no files"),
    "no model": (lambda a: changed(a / "checkpoint.json", model={"$tensor": 1}), "not as written"),
    "no weights": (lambda a: (a / "weights.safetensors").unlink(), "missing"),
    "torn weights": (lambda a: cut(a / "weights.safetensors", 50), "torn"),
    "torn state": (lambda a: cut(a / "state.safetensors", 50), "torn"),
    "other weights": (
        lambda a: (a / "weights.safetensors").write_bytes(
            (a / "weights.safetensors").read_bytes()[:-1] + b"\x7f"
        ),
        "changed after",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    checkpoint.save(tmp_path / "a", WEIGHTS, MODEL, TRAINING)
    damage, word = DAMAGE[case]
    damage(tmp_path / "a")
    refused(lambda: checkpoint.load(tmp_path / "a"), word)


def header(text: str, tail: bytes = b"") -> bytes:
    text = text.replace("BIG", str(2**62))
    return struct.pack("<Q", len(text)) + text.encode() + tail


BAD_SAFETENSORS = {
    "empty": b"",
    "2^60 header": struct.pack("<Q", 1 << 60),
    "no json": header("{"),
    "unknown dtype": header('{"w":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "too few bytes": header('{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', bytes(4)),
    "overflow": header('{"w":{"dtype":"F32","shape":[BIG,4],"data_offsets":[0,4]}}', bytes(4)),
    "overlap": header(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}',
        bytes(6),
    ),
    "pickle": pickle.dumps({"w": 1}),
    "one name twice": header(
        '{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_bad_safetensors_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(BAD_SAFETENSORS[case])
    refused(lambda: read_weights(str(path)), "no safetensors file")


def test_of_very_many_names_few_are_told(tmp_path: Path) -> None:
    count = 30_000
    rows = (
        f'"{i}":{{"dtype":"F32","shape":[1],"data_offsets":[{4 * i},{4 * i + 4}]}}'
        for i in range(count)
    )
    (tmp_path / "w.safetensors").write_bytes(header("{" + ",".join(rows) + "}", bytes(4 * count)))
    with pytest.raises(TrainingError, match="does not fit") as caught:
        initialise(net(), tmp_path / "w.safetensors")
    assert len(str(caught.value)) < 5000


# faults while writing

_CALLS = ("open", "fsync", "rename", "replace", "mkdir", "symlink", "unlink", "rmdir", "write")


def _write_a_second(run: RunFolder) -> None:
    """What a run does at the end of an epoch, the files of its history aside."""
    place = run.place(2)
    checkpoint.save(place, {"w": torch.full((2,), 2.0)}, {"step": 2}, {})
    run.point("last", place)
    run.point("best", place)
    run.tidy(place.name)


def _die_at_call(number: int) -> None:
    """As by kill -9 at the call to the system of that number."""
    left = iter(range(number))

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))


def test_a_kill_at_any_call_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    outcomes = []
    for number in range(60):
        root = tmp_path / str(number)
        run = RunFolder(root)
        with run.locked():
            checkpoint.save(run.place(1), {"w": torch.ones(2)}, {"step": 1}, {})
            run.point("last", run.place(1))
        child = os.fork()
        if child == 0:
            _die_at_call(number)
            _write_a_second(run)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        step = run.latest()[1]["model"]["step"]
        assert checkpoint_of(root / "last").name in ("step-000000001", "step-000000002")
        outcomes.append((os.WIFEXITED(status), step))
        with run.locked():  # whoever comes next can write
            run.tidy(None)
        assert not list(run.checkpoints.glob(".*"))
        if os.WIFEXITED(status):
            break
    assert outcomes[-1] == (True, 2) and len(outcomes) > 12
    assert {step for _, step in outcomes} == {1, 2}


@pytest.mark.parametrize("why", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=os.strerror)
@pytest.mark.parametrize("name", ["mkdir", "open", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_nothing_half_done(
    tmp_path: Path, name: str, why: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(os, name)

    def full(*args: Any, **kwargs: Any) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return original(*args, **kwargs)
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, name, full)
    refused(
        lambda: checkpoint.save(tmp_path / "a", WEIGHTS, MODEL, TRAINING),
        os.strerror(why), "previous checkpoint is kept", code="E422",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_torn_checkpoint_is_passed_over_on_resuming(tmp_path: Path) -> None:
    fit(tmp_path / "run")
    whole = state(tmp_path / "run")
    cut(tmp_path / "run" / "checkpoints" / "step-000000012" / "weights.safetensors", 99)
    assert RunFolder(tmp_path / "run").latest()[0].name == "step-000000008"
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000000012")
    fit(tmp_path / "run", resume=True)
    assert same(state(tmp_path / "run"), whole)


def test_a_clock_that_goes_back_does_not_matter(tmp_path: Path) -> None:
    """The latest checkpoint is that of the latest step, whatever the times of the files say."""
    fit(tmp_path / "run")
    whole = state(tmp_path / "run")
    folders = sorted((tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(folders.pop())
    for age, folder in enumerate(folders):
        for path in (folder, *folder.iterdir()):
            os.utime(path, (10**9 - age, 10**9 - age))
    assert RunFolder(tmp_path / "run").latest()[0] == folders[-1]
    fit(tmp_path / "run", resume=True)
    assert same(state(tmp_path / "run"), whole)


# the folder of a run


def test_a_folder_holds_one_run_at_a_time(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    refused(lambda: fit(tmp_path, epochs=1), "--resume", code="E421")
    with RunFolder(tmp_path).locked():
        refused(lambda: fit(tmp_path, resume=True), "another run", code="E421")
    refused(lambda: fit(tmp_path / "other", resume=True), "no checkpoint", code="E421")
    assert fresh(tmp_path, "run").name == "run-1"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(lambda: fit(tmp_path / "file" / "run"), "file/run", code="E422")


def test_only_what_belongs_together_is_resumed(tmp_path: Path) -> None:
    fit(tmp_path, epochs=2)
    other = TINY.replace("CONV(3)", "CONV(3, F=1)")
    refused(
        lambda: fit(tmp_path, text=other, resume=True, epochs=2), "-net Tiny", "+net", code="E423"
    )
    refused(lambda: fit(tmp_path, resume=True, epochs=3), "epochs 2 -> 3", "--force", code="E423")
    refused(lambda: fit(tmp_path, resume=True, epochs=2, data=arrays(80)), "data", code="E423")
    x, y = arrays()
    part = Arrays((x,), y)
    named = Data("arrays", part, part, tuple("abcd"))
    refused(
        lambda: fit(tmp_path, resume=True, epochs=2, data=named, force=True), "a, b", code="E423"
    )
    for changed, word in (({"optimizer": "sgd"}, "sgd cannot"), ({"frozen": ["fc*"]}, "fc.weight")):
        refused(
            lambda c=changed: fit(tmp_path, resume=True, epochs=2, force=True, **c),
            word,
            code="E423",
        )


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "step", "constant", "plateau"])
def test_more_epochs_go_on_as_their_schedule_says(tmp_path: Path, schedule: str) -> None:
    whole = fit(schedule=schedule, epochs=5, lr=0.02)
    fit(tmp_path, epochs=2)
    history = fit(tmp_path, resume=True, force=True, schedule=schedule, epochs=5, lr=0.02)
    rates = [[record["lr"] for record in h.records[2:]] for h in (history, whole)]
    assert rates[0] == pytest.approx(rates[1])


# what a checkpoint is for


def test_a_trained_network_comes_back_whole(tmp_path: Path) -> None:
    history = fit(tmp_path, precision="bf16", epochs=2)
    trained = load_trained(tmp_path / "last")
    x, _ = arrays(8)
    (member,) = trained.members
    assert member.network.dtype == torch.bfloat16
    expected = history.network.predict(*member.prepared((x,)))
    assert torch.equal(trained.probabilities(x), expected.float())


def test_programs_with_imports_lets_and_defaults_are_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "b.cnn").write_text("block two(k) = (CONV(k) - RELU)*2\n")
    main = tmp_path / "main.cnn"
    main.write_text(
        'import "parts/b.cnn" (two)\nlet N = 1\ninput 8x8x1\nnet M = two(N) - FC, SOFTMAX\n'
    )
    network = convdsl.compile(main, input="1@6x6", defaults=["FC(5)"], N=3)
    recorded = json.loads(json.dumps(program.record(network)))
    shutil.rmtree(tmp_path / "parts")
    again = program.rebuild(recorded)
    assert again.emit("torch").partition("\n")[2] == network.emit("torch").partition("\n")[2]
    assert program.digest(recorded) != program.digest({**recorded, "input": None})
    assert program.digest(recorded) == program.digest({**recorded, "name": "other.cnn"})
    recorded["imports"]["../evil.cnn"] = "x"
    refused(lambda: program.rebuild(recorded), "leaves its folder")
    refused(lambda: program.rebuild({"text": 3}), "not recorded as expected")


# weights from elsewhere


def net(text: str = TINY) -> Any:
    return convdsl.compile_text(text).module()


def test_weights_are_taken_from_a_run_a_file_and_a_torch_file(tmp_path: Path) -> None:
    fit(tmp_path / "run", epochs=1)
    expected = load_trained(tmp_path / "run").members[0].network.state_dict()
    save_file(expected, tmp_path / "w.safetensors")
    torch.save({"state_dict": expected}, tmp_path / "w.pt")
    for source in ("run", "w.safetensors", f"torch:{tmp_path / 'w.pt'}"):
        model = net()
        initialise(model, source if ":" in source else tmp_path / source)
        assert same(dict(model.state_dict()), dict(expected))
    refused(lambda: read_weights(str(tmp_path / "w.pt")), "pickle", "torch:")
    refused(
        lambda: read_weights(str(tmp_path / "none.safetensors")), "none.safetensors", code="E300"
    )


def test_a_head_of_other_classes_starts_afresh(tmp_path: Path) -> None:
    save_file(net().state_dict(), tmp_path / "w.safetensors")
    other = net(TINY.replace("FC(4)", "FC(7)"))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    refused(lambda: initialise(other, tmp_path / "w.safetensors"), "--replace-head")
    assert same(before, dict(other.state_dict()))
    kept = initialise(other, tmp_path / "w.safetensors", fresh_head=True)
    assert sorted(kept) == ["fc.bias", "fc.weight"]
    wrong = net("input 1@4x4\nnet W = CONV(5) - FC(4), SOFTMAX\n")
    refused(
        lambda: initialise(wrong, tmp_path / "w.safetensors", fresh_head=True), "but for the head"
    )


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in net().state_dict().items()}
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "w.safetensors")
    refused(lambda: initialise(net(), tmp_path / "w.safetensors"), "not finite")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.npz", "x.bin"])
def test_no_weight_file_runs_code(tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    torch.save({"w": Evil(canary)}, tmp_path / name)
    for text in (str(tmp_path / name), f"torch:{tmp_path / name}"):
        with pytest.raises(TrainingError) as caught:
            read_weights(text)
        assert "weights_only" not in str(caught.value)
    (tmp_path / "p").write_bytes(pickle.dumps(Evil(canary)))
    refused(lambda: read_weights(f"torch:{tmp_path / 'p'}"), "more than tensors")
    assert not canary.exists()
