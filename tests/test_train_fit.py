"""Runs on tiny networks: settings, schedules, resuming to the bit, interrupts, faults."""

import json
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import convdsl
from convdsl.train.augment import KINDS, Draw, augment
from convdsl.train.batches import Batches
from convdsl.train.data.parts import Arrays
from convdsl.train.keeper import InterruptedRun, Keeper
from convdsl.train.optimizers import lay_out, make_optimizer, make_schedule
from convdsl.train.problem import TrainingError
from convdsl.train.random_numbers import mixed, normal, uniform
from convdsl.train.recipe import make_recipe
from convdsl.train.summary import facts_of
from tests.train_cases import TINY, arrays, fit, same, state

pytestmark = pytest.mark.usefixtures("quick_training")


def code(caught: pytest.ExceptionInfo[TrainingError]) -> str:
    return caught.value.diagnostic.code


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As if Ctrl-C was pressed during this step."""
    original = Keeper._stop_if_asked

    def stop(self: Keeper, trainer: Any, save_now: bool) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, trainer, save_now)

    monkeypatch.setattr(Keeper, "_stop_if_asked", stop)


# learning


def test_a_tiny_network_learns() -> None:
    history = fit(epochs=12, text=TINY.replace("0.2", "0"))
    assert history.accuracy == 1.0 and history.best_accuracy == 1.0
    assert history.records[0]["train_loss"] > history.last["train_loss"]
    assert history.network.training and len(history.records) == 12


def test_two_runs_are_equal_and_seeds_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))  # what was drawn before does not matter
        fit(tmp_path / name, seed=seed, augment="shift,flip")
    a, b, c = (state(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert not same(a["weights"], c["weights"])


SETTINGS: list[dict[str, Any]] = [
    {},
    {"schedule": "plateau", "optimizer": "sgd", "lr": 0.05},
    {"schedule": "cosine", "warmup": 1.0, "ema": 0.9, "precision": "bf16"},
    {"schedule": "step", "optimizer": "rmsprop", "augment": "shift", "early_stop": 3, "clip": 0.1},
    {"schedule": "constant", "optimizer": "adam", "label_smoothing": 0.2},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """What an uninterrupted run with some settings comes to."""

    @cache
    def run(number: int) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("whole")
        fit(folder, **SETTINGS[number])
        return state(folder)

    return run


# in the first epoch, at its end, in the second
@pytest.mark.parametrize(
    ("number", "step"), [(0, 1), (0, 4), (0, 6), (1, 4), (1, 6), (2, 6), (3, 6), (4, 1)]
)
def test_a_resumed_run_is_the_whole_one_to_the_bit(
    whole: Callable[[int], dict[str, Any]],
    number: int,
    step: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SETTINGS[number]
    with monkeypatch.context() as patch, pytest.raises(InterruptedRun):
        stop_at(patch, step)
        fit(tmp_path, **settings)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert state(tmp_path)["model"]["step"] == step
    history = fit(tmp_path, resume=True, **settings)
    assert len(history.records) == 3
    assert history.earlier == step // 4
    assert all(record["images_per_second"] > 1 for record in history.records)
    assert same(state(tmp_path), whole(number))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("number", [0, 1])
def test_a_step_in_one_call_is_the_same_to_the_bit(
    whole: Callable[[int], dict[str, Any]],
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a CUDA device, where it is one graph."""
    monkeypatch.setattr("convdsl.train.run._at_once", lambda *_: True)
    fit(tmp_path, **SETTINGS[number])
    assert same(state(tmp_path), whole(number))


def test_an_interrupt_in_validation_waits_for_the_end_of_the_epoch(
    whole: Callable[[int], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = convdsl.LitNetwork.validation_step

    def pressed(lit: convdsl.LitNetwork, batch: Any, index: int) -> None:
        if index == 0:
            os.kill(os.getpid(), signal.SIGINT)
        validate(lit, batch, index)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRun):
        patch.setattr(convdsl.LitNetwork, "validation_step", pressed)
        fit(tmp_path)
    assert state(tmp_path)["model"]["step"] == 4
    fit(tmp_path, resume=True)
    assert same(state(tmp_path), whole(0))


def test_a_rate_of_zero_changes_nothing_and_a_batch_holds_no_more_than_there_is() -> None:
    start = fit(lr=0.0, epochs=1, batch=1000)
    again = fit(lr=0.0, epochs=2, batch=1000)
    assert start.last["step"] == 1 and start.last["val_loss"] == again.last["val_loss"]


def test_a_finished_run_is_resumed_to_nothing_more(tmp_path: Path) -> None:
    fit(tmp_path)
    before = state(tmp_path)
    history = fit(tmp_path, resume=True)
    assert len(history.records) == history.earlier == 3
    assert ("trained", "0 epochs in 0.1 s, 3 before") in facts_of(history, history.data, 0.1)
    assert same(before, state(tmp_path))


def test_checkpoints_within_an_epoch(tmp_path: Path) -> None:
    fit(tmp_path, save_every=3)
    names = [path.name for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert names[-2:] == ["step-000000009", "step-000000012"]
    assert str((tmp_path / "last").readlink()) == "checkpoints/step-000000012"
    assert (tmp_path / "best" / "checkpoint.json").is_file()


def test_event_files_are_written_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "with", epochs=1, tensorboard=True)
    assert list((tmp_path / "with" / "tensorboard").glob("events*"))
    monkeypatch.setattr("convdsl.train.run.find_spec", lambda name: None)
    fit(tmp_path / "without", epochs=1, tensorboard=True)
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_early_stop_says_so() -> None:
    history = fit(epochs=40, early_stop=1, lr=1.0, schedule="constant", clip=0)
    assert len(history.records) < 40 and "1 epochs" in history.stopped


def test_the_plateau_divides_the_rate_by_ten() -> None:
    # so small a rate changes nothing, and five epochs without a better loss are too many
    history = fit(epochs=8, lr=1e-7, schedule="plateau", optimizer="sgd", momentum=0.0)
    assert [record["lr"] for record in history.records] == pytest.approx([1e-7] * 6 + [1e-8] * 2)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    before = dict(convdsl.compile_text(TINY).module().state_dict())
    names = [name for name in before if name.startswith("conv")]
    assert names
    history = fit(frozen=["conv*"], seed=3)
    again = fit(frozen=["conv*"], seed=3, epochs=1)
    for name in before:
        equal = torch.equal(history.network.state_dict()[name], again.network.state_dict()[name])
        assert equal == (name in names)
    with pytest.raises(TrainingError, match="no parameter is called 'dense"):
        fit(frozen=["dense*"])
    with pytest.raises(TrainingError, match="every parameter is frozen"):
        fit(frozen=["*"])


def test_several_inputs_and_no_classes() -> None:
    text = (
        "input left: 4\ninput right: 4\nmodule tower = FC(3)\n"
        "net Two = DISTANCE{ @left - tower | @right - tower }, CONTRASTIVE(margin=1.0)\n"
    )
    x = torch.rand(40, 4)
    history = fit(text=text, data=(x, 1 - x, torch.arange(40) % 2), label_smoothing=0.0)
    assert "val_accuracy" not in history.last and history.best is not None
    regression = "input 4\nnet R = FC(2), MSE\n"
    history = fit(text=regression, data=(x, x[:, :2]), epochs=8, augment="none")
    assert history.last["val_loss"] < history.records[0]["val_loss"]


def test_maps_of_labels_are_scored_by_the_pixel() -> None:
    text = "input 1@4x4\nnet Map = CONV(2), SOFTMAX\n"
    x = torch.rand(40, 1, 4, 4)
    history = fit(text=text, data=(x, (x[:, 0] > 0.5).long()), epochs=12, lr=0.1, augment="none")
    assert history.accuracy > 0.9
    with pytest.raises(TrainingError, match="label maps"):
        fit(text=text, data=(x, (x[:, 0] > 0.5).long()), augment="flip")


def test_a_generated_module_is_trained_but_not_checkpointed(tmp_path: Path) -> None:
    model = convdsl.compile_text(TINY).module()
    history = convdsl.fit(model, arrays(), epochs=1, batch=8, progress=None)
    assert history.network is model
    with pytest.raises(TrainingError) as caught:
        convdsl.fit(model, arrays(), out=tmp_path, epochs=1, batch=8, progress=None)
    assert code(caught) == "E416" and not list(tmp_path.glob("checkpoints/*"))


# settings


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"optimizer": "adaw"}, "did you mean adamw?"),
        ({"epoch": 3}, "did you mean epochs?"),
        ({"lr": -1.0}, "lr must lie in"),
        ({"epochs": 0}, "epochs must lie in"),
        ({"lr": float("nan")}, "lr must lie in"),
        ({"schedule": "plateau", "warmup": 2}, "no warmup"),
        ({"preset": "alexnot"}, "did you mean alexnet?"),
        ({"augment": "flop"}, "did you mean flip?"),
        ({"augment": "color"}, "color is for RGB"),
        ({"precision": "fp16"}, "bf16"),
        ({"devices": 1}, "no setting 'devices'"),
    ],
)
def test_settings_that_do_not_suit_are_refused(settings: dict[str, Any], word: str) -> None:
    if settings.get("precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match=word.replace("?", r"\?")) as caught:
        fit(**settings)
    assert code(caught) in ("E415", "E416")


def test_the_recipe_of_the_lecture() -> None:
    recipe = make_recipe("alexnet", epochs=3)
    assert (recipe.optimizer, recipe.momentum, recipe.lr) == ("sgd", 0.9, 1e-2)
    assert (recipe.batch, recipe.weight_decay, recipe.schedule) == (128, 5e-4, "plateau")
    assert recipe.epochs == 3 and recipe.label_smoothing == 0


def test_batch_norm_needs_more_than_one_sample() -> None:
    text = "input 4\nnet B = FC(3) - BN - FC(4), SOFTMAX\n"
    data = (torch.rand(40, 4), torch.arange(40) % 4)
    with pytest.raises(TrainingError, match="at least 2 samples"):
        fit(text=text, data=data, batch=1)
    # 30 samples in batches of 29 leave one over, which is passed by
    history = fit(text=text, data=data, batch=29)
    assert history.last["step"] == 3


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(TrainingError, match="no head"):
        fit(text="input 1@4x4\nnet N = CONV(3)\n")


@pytest.mark.parametrize("schedule", ["step", "cosine", "onecycle", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 2.0])
def test_schedules_rise_and_fall(schedule: str, warmup: float) -> None:
    recipe = make_recipe(schedule=schedule, warmup=warmup, epochs=10, lr=0.1, optimizer="sgd")
    optimizer = make_optimizer(torch.nn.Linear(2, 2), recipe)
    made = make_schedule(optimizer, recipe, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made is not None:
            made.step()
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    if warmup:
        assert rates[0] < 0.01 and rates.index(max(rates)) in (19, 20)
    assert (rates[-1] < 0.02) == (schedule != "constant")


def test_weights_decay_and_biases_do_not() -> None:
    optimizer = make_optimizer(torch.nn.Linear(2, 2), make_recipe(weight_decay=0.5))
    decays = {p.dim(): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {2: 0.5, 1: 0.0}


def test_state_from_a_file_lies_as_its_parameter_does() -> None:
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(layer, make_recipe())
    layer(torch.rand(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    before = optimizer.state[layer.weight]["exp_avg"].clone()
    optimizer.state[layer.weight]["exp_avg"] = before.contiguous()
    lay_out(optimizer)
    after = optimizer.state[layer.weight]["exp_avg"]
    assert after.stride() == layer.weight.stride() and torch.equal(after, before)


# faults while running


def test_a_loss_that_is_not_finite_stops_and_names_the_layer(tmp_path: Path) -> None:
    text = "input 1@4x4\nnet Tiny = CONV(3) - CONV(3) - FC(4), MSE\n"
    wild = {"lr": 1e3, "optimizer": "sgd", "clip": 0, "schedule": "constant", "epochs": 50}
    with pytest.raises(TrainingError) as caught:
        fit(tmp_path, text=text, data=(arrays()[0], torch.rand(40, 4)), **wild)
    assert code(caught) == "E430"
    words = str(caught.value)
    assert "FC(4)" in words or "CONV(3)" in words or "weights" in words
    for path in (tmp_path / "checkpoints").glob("step-*"):
        weights = [w for name, w in state(tmp_path)["weights"].items()]
        assert all(bool(torch.isfinite(w).all()) for w in weights), path


def test_the_first_layer_that_overflows_is_named() -> None:
    text = "input 1@4x4\nnet T = CONV(3) - RELU - FC(4), SOFTMAX\n"
    lit = convdsl.LitNetwork(convdsl.compile_text(text), label_smoothing=0.0)
    from convdsl.train.finite import first_not_finite

    x = torch.ones(2, 1, 4, 4)
    with torch.no_grad():
        weight = next(p for name, p in lit.network.named_parameters() if name.startswith("fc"))
        weight.fill_(3e38)
    assert "FC(4)" in first_not_finite(lit, [x * 1e3])
    assert "input x" in first_not_finite(lit, [x / 0])
    with torch.no_grad():
        weight.fill_(float("nan"))
    assert "weights fc" in first_not_finite(lit, [x])


def test_out_of_memory_says_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(convdsl.LitNetwork, "training_step", full)
    monkeypatch.setattr("convdsl.train.memory._device_memory", lambda: 20_000)
    with pytest.raises(TrainingError) as caught:
        fit(batch=30)
    words = str(caught.value)
    assert code(caught) == "E431" and "batches of 30" in words and "the plan expects" in words
    fits = int(words.partition("--batch ")[2].split()[0])
    assert 0 < fits < 30
    plan = convdsl.compile_text(TINY)
    state_bytes = 8 * plan.parameters_count
    assert plan.plan(fits).total + state_bytes <= 18_000 < plan.plan(fits + 1).total + state_bytes


# batches, augmentation, random numbers


def test_every_sample_comes_once_an_epoch() -> None:
    part = Arrays((torch.arange(20.0)[:, None],), torch.arange(20))
    loader = Batches(part, 6, seed=1, shuffle=True)
    first = [batch.rows for batch in loader]
    assert [len(rows) for rows in first] == [6, 6, 6, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(20))
    loader.set_epoch(1)
    assert not torch.equal(torch.cat([batch.rows for batch in loader]), torch.cat(first))


def test_processes_share_out_a_batch() -> None:
    part = Arrays((torch.arange(7.0)[:, None],), torch.arange(7))
    whole = [b.rows.tolist() for b in Batches(part, 3, seed=1, shuffle=True)]
    parts = [list(Batches(part, 3, seed=1, shuffle=True, rank=r, world=2)) for r in range(2)]
    for expected, *shares in zip(whole, *parts, strict=True):
        assert sum(b.share for b in shares) == pytest.approx(2)
        got = [row for b in shares if b.share for row in b.rows.tolist()]
        assert sorted(got) == sorted(expected)


def test_samples_in_files_come_in_the_same_batches() -> None:
    x = (torch.arange(20.0)[:, None],)
    a = list(Batches(Arrays(x, torch.arange(20)), 3, seed=4, shuffle=True))
    slow = Batches(Arrays(x, torch.arange(20), in_memory=False), 3, seed=4, shuffle=True)
    assert all(map(same, a, slow)) and len(a) == len(list(slow)) == 7


def test_random_numbers_are_uniform_and_normal() -> None:
    samples = torch.arange(50_000)
    u = uniform(mixed(3, 1), samples, 2)
    assert u.min() >= 0 and u.max() < 1
    assert u.mean(0).sub(0.5).abs().max() < 5e-3 and u.var(0).sub(1 / 12).abs().max() < 2e-3
    assert torch.corrcoef(u.T)[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1].abs() < 0.02
    assert torch.equal(uniform(mixed(3, 1), samples[7:9], 2), u[7:9])
    assert not torch.equal(uniform(mixed(3, 2), samples[:9], 2), u[:9])
    z = normal(5, samples, 1)
    assert z.mean().abs() < 0.02 and (z.std() - 1).abs() < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_is_the_samples_own(kind: str) -> None:
    x = torch.rand(6, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    colour = ((0.2, 0.1, 0.0), (0.0, 0.1, 0.0), (0.0, 0.0, 0.05))
    rows = torch.tensor([5, 900, 3, 8, 2, 77])
    whole = augment(x, (kind,), Draw(11, rows, colour))
    assert whole.shape == x.shape and not torch.equal(whole, x)
    one = augment(x[1:2], (kind,), Draw(11, rows[1:2], colour))
    assert torch.allclose(one, whole[1:2], atol=1e-6)
    assert not torch.equal(augment(x, (kind,), Draw(12, rows, colour)), whole)


def test_shift_moves_by_whole_pixels_and_black_moves_in() -> None:
    x = torch.rand(200, 1, 8, 8) + 0.1
    moved = augment(x, ("shift",), Draw(1, torch.arange(200)))
    seen = set()
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for i in range(200):
        places = [
            (r, c)
            for r in range(3)
            for c in range(3)
            if torch.equal(padded[i, :, r : r + 8, c : c + 8], moved[i])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 9
