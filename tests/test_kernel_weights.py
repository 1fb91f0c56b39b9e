"""Weights as kernels read them: no copies in float32, and in half precision never a stale one."""

import copy
import os
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime import interpreter

import convdsl
from convdsl.runtime import tensor_table
from convdsl.runtime.training_step import TrainingStep
from convdsl.tuning.build import TARGETS, build_all
from convdsl.tuning.plan import Argument, Kernel, cut_out
from tests.memory_driver import watched
from tests.test_training_step import FakeGraphs

SMALL = "input 6x6x2\nnet Small = CONV(4, bias=false) - BN - RELU - POOL - FC(3), SOFTMAX"
#: every layer whose weights lie in another order than torch's, and those whose do not
ORDERED = """\
module twice = CONV(4, F=1) - TANH
input 6x5x3
net Ordered = CONV(4, bias=position) - twice - DWCONV(F=3) - twice - UPCONV(3, F=3, S=1, P=1)
    - LOCAL(2) - FILTER(sharpen) - SEPCONV(4) - POOL - FLATTEN - FC(3), SOFTMAX
"""
SEQUENCE = "input 3@9\nnet Sequence = CONV1D(4) - RELU - LOCAL1D(3) - FLATTEN - FC(3), SOFTMAX"
BOUND = "input 6x6x2\nnet Bound = CONV(4, max_norm=0.5, l2=0.1) - RELU - FC(3), SOFTMAX"
PROGRAMS = {"small": SMALL, "ordered": ORDERED, "sequence": SEQUENCE, "bound": BOUND}
KERNELS = Path(convdsl.__file__).parent / "kernels"


def network(
    program: str = SMALL, dtype: torch.dtype = torch.float16, target: str = "triton"
) -> Any:
    torch.manual_seed(0)
    net = replace(convdsl.compile_text(program), without=("step_at_once",))
    return net.module(device="cpu", target=target, dtype=dtype)


def batch(model: Any, samples: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(samples)
    (shape,) = model.INPUTS.values()
    x = torch.randn(samples, *shape, generator=generator)
    return x, torch.randint(3, (samples,), generator=generator)


def backward(model: Any) -> None:
    model.zero_grad()
    model(*batch(model)).backward()


def casts(call: Callable[[], Any]) -> int:
    """How many launches copy weights."""
    with watched() as seen:
        call()
    return [launch.kernel for launch in seen].count("cast")


def trained(program: str = SMALL, **options: Any) -> tuple[Any, Any]:
    """A network and an optimiser of ours, after a step: the copy is the optimiser's."""
    model = network(program, **options)
    optimizer = convdsl.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model)
    optimizer.step()
    return model, optimizer


def is_fresh(model: Any, program: str = SMALL) -> bool:
    """The network answers as another one does that has just been given its weights."""
    other = network(program)
    other.load_state_dict(model.state_dict())
    x, _ = batch(model)
    with torch.no_grad():
        return torch.equal(model.eval()(x), other.eval()(x))


def other_state(model: Any) -> dict[str, Tensor]:
    return {k: torch.rand_like(v) for k, v in model.state_dict().items()}


# ---- in the parameters' own type


class Operations(TorchDispatchMode):
    """Counts what torch does, without what the interpreter does to run a kernel."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        run = interpreter.GridExecutor.__call__

        def aside(*arguments: Any, **named: Any) -> Any:
            with _disable_current_modes():
                return run(*arguments, **named)

        patch.setattr(interpreter.GridExecutor, "__call__", aside)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["small", "ordered", "sequence"])
def test_a_step_in_float32_copies_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(PROGRAMS[name], dtype=torch.float32)
    x, y = batch(model)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    else:
        x = x.mT.contiguous().mT
    model.zero_grad()
    with Operations(monkeypatch) as seen:
        model(x, y).backward()
    moves = {"copy_", "_to_copy", "clone", "contiguous", "add", "add_", "sum", "mul"}
    assert seen.count["new_empty"] > 3  # it looked
    assert not moves & seen.count.keys()
    with Operations(monkeypatch) as seen:
        optimizer.step()
    # the table of addresses, which are new: to the device, and not a gradient or a momentum
    assert seen.count["copy_"] == 2 and not {"empty_like", "clone"} & seen.count.keys()


@pytest.mark.parametrize("name", PROGRAMS)
def test_weights_lie_as_their_gradients_do_and_look_like_torchs(name: str) -> None:
    model, plain = network(PROGRAMS[name], torch.float32), network(PROGRAMS[name], target="torch")
    state, theirs = model.state_dict(), plain.state_dict()
    assert all(torch.equal(state[path], theirs[path]) for path in state | theirs)
    backward(model)
    for parameter in model.parameters():
        assert type(parameter) is nn.Parameter and parameter.is_leaf
        assert parameter.stride() == parameter.grad.stride()
    known = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(known[path].permute(order).is_contiguous() for path, order in model.WEIGHTS.items())
    assert {path for path, p in model.named_parameters() if p.dim() > 1} <= model.WEIGHTS.keys()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_training_is_that_of_torch(name: str, optimizer: str) -> None:
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    curves = []
    for target, library in (("triton", convdsl), ("torch", torch.optim)):
        model = network(PROGRAMS[name], torch.float32, target)
        stepper = getattr(library, optimizer)(model.parameters(), lr=0.05, **options)
        losses = []
        for _ in range(3):
            loss = model(*batch(model))
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            losses.append(loss.item())
        curves.append((losses, [p.detach() for p in model.parameters()]))
    (ours, weights), (theirs, others) = curves
    assert ours == pytest.approx(theirs, rel=1e-4)
    for mine, other in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_weights_in_another_order_are_put_right_in_every_pass() -> None:
    model, reference = (network(dtype=torch.float32) for _ in range(2))
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    x, _ = batch(model)
    assert torch.equal(model.eval()(x), reference.eval()(x))
    model.to(memory_format=torch.channels_last)
    assert torch.equal(model(x), reference(x))


# ---- the 16-bit copy


def test_the_optimiser_leaves_nothing_to_copy() -> None:
    for make in (convdsl.SGD, convdsl.Adam, convdsl.AdamW):
        model = network()
        optimizer = make(model.parameters(), lr=0.1)
        counts = []
        for _ in range(3):
            counts.append(casts(lambda: backward(model)))  # noqa: B023
            counts.append(casts(optimizer.step))
        counts.append(casts(lambda: model.eval()(batch(model)[0])))  # noqa: B023
        assert counts == [1, 0, 0, 0, 0, 0, 0]
        assert is_fresh(model)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_copy_is_the_weights_rounded(name: str) -> None:
    model, _ = trained(PROGRAMS[name])
    weights = model.kernel_weights(model.tensors(), torch.float16)
    known = dict(model.named_parameters()) | dict(model.named_buffers())
    for weight, (path, order) in zip(weights, model.WEIGHTS.items(), strict=True):
        assert torch.equal(weight, known[path].half().permute(order))
        assert weight.is_contiguous()
        assert weight.data_ptr() % 16 == 0


def test_copies_of_a_network_train_on_their_own() -> None:
    model, _ = trained()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)):
        optimizer = convdsl.SGD(other.parameters(), lr=0.5)
        for _ in range(2):
            backward(other)
            optimizer.step()
        assert is_fresh(other) and is_fresh(model)
        other.train(), model.train()


def test_what_is_saved_of_a_parameter_is_the_parameter(tmp_path: Path) -> None:
    model, _ = trained()
    torch.save(list(model.parameters()), tmp_path / "list.pt")
    for mine, other in zip(model.parameters(), torch.load(tmp_path / "list.pt"), strict=True):
        assert type(other) is nn.Parameter and torch.equal(mine, other)
        convdsl.SGD([other], lr=0.1).step()
    assert (tmp_path / "list.pt").stat().st_size < 20_000


def test_half_a_network_reads_its_own_weights() -> None:
    model, reference = trained()[0].half(), network(target="torch")
    reference.load_state_dict(model.state_dict())
    x, _ = batch(model)
    assert casts(lambda: model.eval()(x)) == 0
    torch.testing.assert_close(model(x), reference.eval()(x), rtol=1e-2, atol=1e-2)


def test_the_type_of_the_copy_may_change() -> None:
    model, optimizer = trained(dtype=torch.float32)
    x, _ = batch(model)
    with torch.no_grad():
        wide = model(x)
        with torch.autocast("cpu", torch.float16):
            assert model(x).dtype == torch.float16
        assert torch.equal(model(x), wide)
    model.dtype = torch.float16
    backward(model)
    optimizer.step()
    assert is_fresh(model)


def test_inference_mode_leaves_a_network_that_trains() -> None:
    model = network()
    with torch.inference_mode():
        model.eval()(batch(model)[0])
    model.train()
    optimizer = convdsl.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        backward(model)
        optimizer.step()
        with torch.inference_mode():
            model(batch(model)[0])
    assert is_fresh(model)
    with torch.inference_mode():
        made = network()
        x, _ = batch(made)
        first = made.eval()(x)
        for parameter in made.parameters():
            parameter.zero_()
        assert not torch.equal(made(x), first)


def test_memory_is_masters_copy_gradients_and_momenta() -> None:
    model, optimizer = trained(ORDERED)
    backward(model)
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    state = [s["momentum_buffer"] for s in optimizer.state.values()]
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in parameters + state
    }
    held |= {
        p.grad.untyped_storage().data_ptr(): p.grad.untyped_storage().nbytes() for p in parameters
    }
    assert sum(held.values()) == 3 * 4 * count
    weights = model.kernel_weights(model.tensors(), torch.float16)
    (flat,) = {w.untyped_storage().nbytes() for w in weights}
    assert flat <= 2 * (sum(w.numel() for w in weights) + 64 * len(weights))


# ---- in a CUDA graph of a step, and elsewhere


def test_before_a_replay_the_copy_is_looked_after(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGraphs(monkeypatch)
    model = network()
    step = TrainingStep(model, convdsl.SGD(model.parameters(), lr=0.1, momentum=0.9))
    x, y = batch(model)
    counts = [casts(lambda: step(x, y)) for _ in range(8)]
    # the first is before any step of an optimiser that would tell
    assert counts == [2, *[0] * 7] and fake.replays > 2
    model.load_state_dict(other_state(model))
    # what a replay runs reads the copy unasked: here it runs on a network that would not look
    with monkeypatch.context() as patch:
        assert step._graph_state([x, y]) == step.state
        patch.setattr(type(model._copies), "_copy", None)
        replays = fake.replays
        step(x, y)
        assert fake.replays == replays + 1
    assert is_fresh(model)


def test_a_graph_depends_on_where_the_copy_lies() -> None:
    model, _ = trained()
    place = model.ready(torch.float16)
    assert place == model.ready(torch.float16) != model.ready(torch.bfloat16)
    assert model.ready(torch.float32) is None
    assert network(target="torch").ready(torch.float16) is None


def test_a_network_trains_under_ddp(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        alone, _ = trained()
        model = network()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = convdsl.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
        parallel(*batch(model)).backward()
        optimizer.step()
        for mine, other in zip(model.parameters(), alone.parameters(), strict=True):
            assert torch.equal(mine, other)
        assert is_fresh(model)
    finally:
        torch.distributed.destroy_process_group()


def test_the_copying_kernel_spills_nowhere() -> None:
    text = "\n\n".join((KERNELS / f"{n}.py").read_text("utf-8") for n in ("tensor_list", "cast"))
    pointers = {"rows_ptr": "*i32", "table_ptr": "*i64", "flat_ptr": "*bf16"}
    arguments = [Argument(name, kind, divisible=True) for name, kind in pointers.items()]
    arguments += [Argument(n, "constexpr", v) for n, v in (("ALIGNED", True), ("BLOCK", 1024))]
    kernel = Kernel(cut_out(text, "cast"), "cast", tuple(arguments), None, 4, 2)
    assert tensor_table.BLOCK == 1024 and os.environ["TRITON_INTERPRET"] == "1"
    facts = build_all([(kernel, target) for target in TARGETS.values()], workers=1)
    assert not [f for f in facts.values() if f.spills or f.registers > 64]
