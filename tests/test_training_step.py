"""``model.training_step(optimizer)``: what a loop by hand does, and what is refused.

The CUDA graph is in `test_gpu`; here the part of it that needs no device.
"""

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import convdsl
from convdsl.runtime.training_step import GRAPHS, WARM_UPS, TrainingStep
from tests.test_optim import parameters

PLAIN = "input 6x6x2\nnet Plain = CONV(4) - BN - RELU - POOL - FC(3), SOFTMAX"
DROPPING = "input 6x6x2\nnet Dropping = CONV(4) - RELU - DROPOUT(0.5) - POOL - FC(3), SOFTMAX"
BOUND = "input 6x6x2\nnet Bound = CONV(4, l2=0.1, max_norm=0.5) - RELU - FC(3), SOFTMAX"
TWO = """\
input a: 6x6x1
input b: 6x6x1
net Two = CONCAT{@a | @b} - CONV(4) - RELU - POOL as early - FC(3), SOFTMAX
output aux = @early - FC(2), SOFTMAX(weight=0.3, only=training)
"""
PROGRAMS = {"plain": PLAIN, "dropping": DROPPING, "bound": BOUND, "two": TWO}
TARGETS = ("torch", "triton")


def model_of(program: str, target: str = "torch", **options: Any) -> Any:
    torch.manual_seed(0)
    return convdsl.compile_text(program).module(device="cpu", target=target, **options)


def batch(model: Any, samples: int = 4) -> tuple[list[Tensor], Any]:
    inputs = [torch.randn(samples, *shape) for shape in model.INPUTS.values()]
    labels = {name: torch.randint(int(spec[2]), (samples,)) for name, spec in model.LABELS.items()}
    return inputs, labels if len(labels) > 1 else next(iter(labels.values()))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_step_is_the_loop_by_hand_to_the_bit(name: str, target: str) -> None:
    runs = []
    for by_hand in (True, False):
        model = model_of(PROGRAMS[name], target)
        optimizer = convdsl.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        step = model.training_step(optimizer)
        losses = []
        for samples in (4, 4, 3):
            inputs, labels = batch(model, samples)
            if by_hand:
                loss = model(*inputs, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            else:
                loss = step(*inputs, labels)
                assert loss.shape == () and not loss.requires_grad
            scheduler.step()
            losses.append(loss.item())
        runs.append((losses, model.state_dict()))
    (losses, state), (again, same) = runs
    assert losses == again and len(set(losses)) == 3
    assert all(torch.equal(state[key], same[key]) for key in state)


@pytest.mark.parametrize("target", TARGETS)
def test_every_step_drops_others_and_the_seed_brings_them_back(target: str) -> None:
    model = model_of(DROPPING, target)
    step = model.training_step(convdsl.SGD(model.parameters(), lr=0.0))
    inputs, labels = batch(model)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [step(*inputs, labels).item() for _ in range(3)]

    first = losses(1)
    assert len(set(first)) == 3
    assert losses(1) == first
    assert losses(2) != first


def test_the_forward_and_the_backward_pass_drop_alike() -> None:
    """The gradient of a sum through DROPOUT alone is what it multiplied the input by."""
    model = model_of("input 40\nnet Alone = DROPOUT(0.5)", "triton")
    x = torch.ones(5, 40, requires_grad=True)
    y = model(x)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach()) and y.unique().tolist() == [0, 2]
    model.eval()
    assert torch.equal(model(x), x)  # with a gradient asked for
    with torch.no_grad():
        assert torch.equal(model(x), x)


def test_every_optimizer_of_torch_will_do() -> None:
    model = model_of(PLAIN)
    step = model.training_step(torch.optim.RMSprop(model.parameters(), lr=0.01))
    inputs, labels = batch(model)
    losses = [step(*inputs, labels).item() for _ in range(5)]
    assert losses[-1] < losses[0]


def test_gradients_of_earlier_calls_do_not_count_and_none_stay() -> None:
    runs = []
    for before in (False, True):
        model = model_of(PLAIN)
        step = model.training_step(convdsl.AdamW(model.parameters()))
        inputs, labels = batch(model)
        if before:
            model.eval()  # no running statistics
            model(*inputs, labels).backward()
            model.train()
        with torch.no_grad():  # the caller's mode is not asked
            step(*inputs, labels)
        assert all(p.grad is None for p in model.parameters())
        runs.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gradients_are_clipped_together() -> None:
    model = model_of(PLAIN)
    inputs, labels = batch(model)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    model.training_step(convdsl.SGD(model.parameters(), lr=1.0), clip=0.01)(*inputs, labels)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_part_of_the_parameters_may_be_trained() -> None:
    model = model_of(PLAIN)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = model.training_step(convdsl.Adam([model.get_parameter("fc.weight")]))
    inputs, labels = batch(model)
    step(*inputs, labels)
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed == ["fc.weight"]


def test_bad_use_is_told_with_a_fix() -> None:
    model = model_of(PLAIN)
    optimizer = convdsl.SGD(model.parameters())
    step = model.training_step(optimizer)
    (x,), y = batch(model)
    with pytest.raises(ValueError, match=r"no parameter.*model\.parameters\(\)"):
        model.training_step(convdsl.SGD(parameters()))
    with pytest.raises(ValueError, match="optimizer must be"):
        model.training_step(model.parameters())
    for clip in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="clip must be a norm of at least 0"):
            model.training_step(optimizer, clip=clip)
    headless = model_of("input 6x6x2\nnet Headless = CONV(4)")
    with pytest.raises(ValueError, match="no head"):
        headless.training_step(convdsl.SGD(headless.parameters()))
    with pytest.raises(ValueError, match=r"needs \(x, labels\), got 1"):
        step(x)
    with pytest.raises(ValueError, match=r"\.to\(device\)"):
        step(x.to("meta"), y)
    with pytest.raises(ValueError, match=r"is outside 0\.\.2"):
        step(x, y + 7)
    model.eval()
    with pytest.raises(ValueError, match=r"call model\.train\(\)"):
        step(x, y)


class FakeGraphs:
    """Stands in for CUDA's graphs: what is captured does not run until it is replayed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.capturing, self.captures, self.replays = False, 0, 0
        fake, run = self, TrainingStep._step

        class Graph:
            step: Any = None

            def pool(self) -> None: ...

            def replay(self) -> None:
                step, leaves, tree, loss = self.step
                fake.replays += 1
                loss.copy_(run(step, leaves, tree))

        @contextmanager
        def capture(graph: Any, **_: Any) -> Iterator[None]:
            fake.capturing = True
            yield
            fake.capturing = False
            graph.step = fake.step

        def step_or_record(step: Any, leaves: list[Any], tree: Any) -> Tensor:
            if not fake.capturing:
                return run(step, leaves, tree)
            fake.captures += 1
            loss = torch.zeros(())
            fake.step = (step, leaves, tree, loss)
            return loss

        stream = SimpleNamespace(wait_stream=lambda other: None)
        patch.setattr(TrainingStep, "_on_cuda", lambda *_: True)
        patch.setattr(TrainingStep, "_step", step_or_record)
        patch.setattr("torch.cuda.CUDAGraph", Graph)
        patch.setattr("torch.cuda.graph", capture)
        patch.setattr("torch.cuda.Stream", lambda: stream)
        patch.setattr("torch.cuda.current_stream", lambda: stream)
        patch.setattr("torch.cuda.stream", lambda stream: nullcontext())
        patch.setattr("torch.cuda.device", lambda device: nullcontext())


def test_every_shape_is_captured_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The book-keeping of `TrainingStep` round the graphs, against the loop without them."""
    runs = []
    for graphs in (False, True):
        fake = FakeGraphs(monkeypatch) if graphs else None
        model = model_of(PLAIN)
        optimizer = convdsl.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        step = TrainingStep(model, optimizer)
        losses = []
        for number in range(16):
            (x,), y = batch(model, 3 + number % 2)
            losses.append(step(x, y))
            scheduler.step()
        runs.append((losses, [p.detach().clone() for p in model.parameters()]))
    (losses, weights), (again, same) = runs
    assert torch.equal(torch.stack(losses), torch.stack(again))
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    # one call made the momentum, then three warmed each shape up
    assert fake is not None and fake.captures == 2 and fake.replays == 16 - 1 - 2 * WARM_UPS
    for change in (model.float, lambda: optimizer.load_state_dict(optimizer.state_dict())):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        change()
        before = fake.replays
        for _ in range(WARM_UPS):
            step(x, y)
        assert fake.replays == before and not step.captured
    monkeypatch.setattr(model, "_forward_hooks", {0: print})
    assert step._graph_state([x, y]) is None


def test_few_shapes_get_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGraphs(monkeypatch)
    model = model_of(PLAIN)
    step = TrainingStep(model, convdsl.SGD(model.parameters(), lr=0.1))
    for _ in range(WARM_UPS + 2):
        for samples in range(2, 2 + GRAPHS + 2):
            (x,), y = batch(model, samples)
            assert step(x, y).isfinite()
    assert fake.captures == len(step.captured) == GRAPHS


def test_errors_do_not_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGraphs(monkeypatch)
    model = model_of(PLAIN)
    step = TrainingStep(model, convdsl.SGD(model.parameters(), lr=0.1))
    (x,), y = batch(model)
    for _ in range(WARM_UPS + 2):
        with pytest.raises(ValueError, match="outside"):
            step(x, y + 7)
    assert not fake.captures


@pytest.mark.parametrize("head", ["SOFTMAX", "SVM"])
def test_the_loss_of_a_label_nobody_looked_at_is_nan(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a CUDA graph: the kernels read nothing beyond the row."""
    model = model_of(f"input 4\nnet Net = FC(3), {head}", "triton")
    module = sys.modules[type(model).__module__]
    monkeypatch.setattr(module, "check_classes", lambda *_: None)
    for label in (-1, 3, 10**12):
        assert model(torch.ones(2, 4), torch.tensor([0, label])).isnan()
    assert model(torch.ones(2, 4), torch.tensor([0, 2])).isfinite()


def test_generated_files_step_without_us(tmp_path: Path) -> None:
    for target in TARGETS:
        (tmp_path / f"by_{target}.py").write_text(convdsl.compile_text(DROPPING).emit(target))
    program = f"""
import importlib, sys
import torch
for target in {TARGETS}:
    model = importlib.import_module("by_" + target).Dropping()
    step = model.training_step(torch.optim.SGD(model.parameters(), lr=0.1))
    assert step(torch.ones(2, 2, 6, 6), torch.tensor([0, 1])).isfinite()
assert not any(name.startswith("convdsl") for name in sys.modules)
"""
    (tmp_path / "alone.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "alone.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are made inside, and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        before = {id(x.untyped_storage()) for x in tree_leaves(args) if isinstance(x, Tensor)}
        for tensor in tree_leaves(made):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and id(storage) not in before and id(storage) not in self.sizes:
                self.sizes[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self.sizes.pop, id(storage))
        self.peak = max(self.peak, sum(self.sizes.values()))
        return made


def peak(call: Callable[[], Any]) -> int:
    """The most bytes that tensors take during a call, beside those of before."""
    with Alive() as alive:
        call()
    return alive.peak


MEMORY = """\
import torch, convdsl
from tests.test_training_step import peak

net = convdsl.compile_text("input 3@9x9 net N = (CONV(8) - BN - RELU)*4 - FC(3), SOFTMAX")
model = net.module(device="cpu", target="triton")
step = model.training_step(convdsl.SGD(model.parameters(), lr=0.1))
x, labels = torch.randn(4, 3, 9, 9), torch.arange(4) % 3
plan, found = net.plan(4), peak(lambda: step(x, labels))
assert 0.95 * plan.arena < found <= 1.1 * (plan.arena + plan.gradients), (plan, found)
# the same in the hands of somebody who may call backward twice
twice = peak(lambda: model(x, labels).backward())
assert twice > found, (twice, found)
"""


@pytest.mark.slow
def test_a_step_takes_the_memory_that_is_planned() -> None:
    """In a process of its own: the tests' interpreter keeps tensors alive."""
    subprocess.run([sys.executable, "-c", MEMORY], check=True, timeout=300)


def test_who_calls_backward_twice_may() -> None:
    model = model_of(PLAIN, "triton")
    inputs, labels = batch(model)
    loss = model(*inputs, labels)
    first, second = (
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=keep)
        for keep in (True, False)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
