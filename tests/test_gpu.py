"""The generated kernels on a CUDA or ROCm device, bfloat16 included (`pytest -m gpu`)."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convdsl
from convdsl.codegen.triton_module import emit_triton
from convdsl.pipeline import INFERENCE_PIPELINE, PIPELINE, run_passes
from convdsl.reference import run_forward
from convdsl.runtime import tuned
from convdsl.runtime.load import load_text
from convdsl.tuning import tune as tune_module
from tests.graphs import NETWORKS, network, random_inputs, random_parameters

pytestmark = pytest.mark.gpu

# largest error allowed, in units of the largest expected value
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def device() -> str:
    if not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.fail("needs a CUDA or ROCm device and no TRITON_INTERPRET=1")
    return "cuda"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_the_reference(name: str, dtype: torch.dtype) -> None:
    build, shape = NETWORKS[name]
    graph = network(build, shape)
    training, inference = run_passes(graph, PIPELINE), run_passes(graph, INFERENCE_PIPELINE)
    text = emit_triton(training, inference, "test.cnn").text
    model = load_text(text, "gpu_test").Test(dtype=dtype, device="cuda")
    inputs, parameters = random_inputs(graph, 5), random_parameters(graph)
    model.load_state_dict({k: p.float() for k, p in parameters.items()})
    leaves = [x.requires_grad_() for x in (*inputs, *parameters.values())]
    expected = run_forward(graph, inputs, parameters)[graph.outputs[0].value]
    ours = [x.detach().float().cuda().requires_grad_() for x in inputs]
    found = model(*ours)
    cotangent = torch.linspace(-1, 1, found.numel()).reshape(found.shape)
    expected.backward(cotangent.double())
    found.backward(cotangent.cuda().to(found.dtype))
    close(found, expected, dtype)
    for mine, theirs in zip([*ours, *model.parameters()], leaves, strict=True):
        assert mine.grad is not None and theirs.grad is not None
        close(mine.grad, theirs.grad, dtype)


def close(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    scale = max(1.0, float(theirs.detach().abs().max()))
    error = (ours.detach().double().cpu() - theirs.detach()).abs().max() / scale
    assert error < TOLERANCE[dtype]


#: what is fused across layers: prologues, bits, slices, sums in epilogues, a step at once
FUSED = {
    "bottleneck": "input 64@14x14 default CONV(bias=false) block cbr(k, f) = CONV(k, f) - BN - RELU"
    " block b(k) = ADD{ cbr(k, 1) - cbr(k, 3) - CONV(64, 1) - BN | ID } - RELU"
    " net N = b(32) - b(64) - GAP - FC(10), SOFTMAX",
    "separable": "input 24@15x15 net N = CONV(32, bias=false) - BN - RELU"
    " - SEPCONV(64, bias=false) - BN - RELU - SEPCONV(64, bias=false) - BN - GAP - FC(10), SOFTMAX",
    "inception": "input 48@14x14 default CONV(bias=false) block cr(k, f) = CONV(k, f) - BN - RELU"
    " net N = CONCAT{ cr(32, 1) | cr(16, 1) - cr(64, 3) | POOL(3, S=1, P=half) - cr(16, 1) }"
    " - cr(64, 3) - GAP - FC(10), SOFTMAX",
    "without normalisation": "input 16@28x28"
    " net N = CONCAT{ CONV(32) - RELU | CONV(64, 1) - LEAKY_RELU | POOL(3, S=1, P=half) }"
    " - (CONV(64) - RELU)*2 - POOL - FC(10), SOFTMAX",
    "cropped": "input 3@30x30 net N = CONV(16, P=0) - RELU"
    " - CONCAT{ CROP(24) | POOL - CONV(32) - RELU - UPCONV(16) - CROP(24) }"
    " - CONV(16) - RELU - GAP - FC(10), SOFTMAX",
    "at once": "input 1@28x28 net N = [CONV(k, F=5, P=0) - RELU - POOL]*(k in 6, 16)"
    " - FC(120) - RELU - FC(10), SOFTMAX",
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_what_is_fused_trains_as_in_torch(name: str, dtype: torch.dtype) -> None:
    """Loss, gradients and running statistics of a step, against float64 on the torch target."""
    net = convdsl.compile_text(FUSED[name])
    torch.manual_seed(0)
    oracle: Any = net.module(device="cuda", target="torch").double()
    ours: Any = net.module(device="cuda", target="triton", dtype=dtype)
    ours.load_state_dict(oracle.state_dict())
    x = torch.randn(7, *net.graph.inputs[0].type.shape, device="cuda")
    y = torch.randint(10, (7,), device="cuda")
    losses = [model(x.to(kind), y) for model, kind in ((ours, dtype), (oracle, torch.float64))]
    for loss in losses:
        loss.backward()
    assert abs(float(losses[0]) - float(losses[1])) < TOLERANCE[dtype] * abs(float(losses[1])) * 4
    for (path, mine), theirs in zip(ours.named_parameters(), oracle.parameters(), strict=True):
        # what rounding leaves of a gradient that is a sum of many is measured by its largest part
        scale = float(theirs.grad.abs().max()) or 1.0
        error = float((mine.grad.double() - theirs.grad).abs().max()) / scale
        assert error < 20 * TOLERANCE[dtype], path
    for (path, mine), theirs in zip(ours.named_buffers(), oracle.buffers(), strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        assert float((mine.double() - theirs).abs().max()) / scale < TOLERANCE[dtype], path


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_lenet_learns_and_two_runs_are_bit_equal(dtype: torch.dtype) -> None:
    def train() -> tuple[list[float], list[Tensor]]:
        torch.manual_seed(0)
        model = convdsl.load("networks/lenet5.cnn", device="cuda", dtype=dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        x = torch.randn(256, 1, 32, 32, device="cuda")
        y = torch.randint(10, (256,), device="cuda")
        losses = []
        for _ in range(30):
            loss = model(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, [p.detach().clone() for p in model.parameters()]

    losses, weights = train()
    again, same = train()
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    assert losses[-1] < 0.8 * losses[0]


SMALL = "input 16x16x3\nnet Small = CONV(8) - BN - RELU - {drop}POOL - FC(10), SOFTMAX"


def small(target: str = "triton", drop: str = "", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    net = convdsl.compile_text(SMALL.format(drop=drop))
    return net.module(device="cuda", dtype=dtype, target=target)


def batch(samples: int = 32) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 3, 16, 16, device="cuda")
    return x, torch.randint(10, (samples,), device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_optimizers_step_as_those_of_torch(name: str, dtype: torch.dtype) -> None:
    runs = []
    for library in (convdsl, torch.optim):
        model = small(dtype=dtype)
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(library, name)(model.parameters(), lr=0.01, **options)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
        for step in range(4):
            torch.manual_seed(step)
            optimizer.zero_grad()
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
            scheduler.step()
        runs.append(list(model.parameters()))
    for mine, other in zip(*runs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_state_follows_parameters_to_the_device(name: str) -> None:
    moved, stayed = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    stayed.load_state_dict(moved.state_dict())
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizers = [getattr(convdsl, name)(m.parameters(), **options) for m in (moved, stayed)]
    for place in ("cpu", "cuda"):
        moved.to(place)
        for model, optimizer in zip((moved, stayed), optimizers, strict=True):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    for mine, other in zip(moved.parameters(), stayed.parameters(), strict=True):
        assert torch.allclose(mine.cpu(), other)


@pytest.mark.parametrize("target", ["triton", "torch"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_replays_are_the_loop_by_hand(name: str, target: str) -> None:
    """Two shapes of batches, a learning rate that changes, and a state that is loaded half-way."""
    runs = []
    for by_hand in (True, False):
        model = small(target)
        options = {"momentum": 0.9, "weight_decay": 0.01} if name == "SGD" else {}
        optimizer = getattr(convdsl, name)(model.parameters(), lr=0.01, **options)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        step = model.training_step(optimizer)
        losses = []
        for number in range(24):
            torch.manual_seed(100 + number)
            x, y = batch(32 if number % 2 else 24)
            if by_hand:
                loss = model(x, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            else:
                loss = step(x, y)
            losses.append(loss.detach())
            scheduler.step()
            if number == 12:
                model.load_state_dict({k: 0.9 * v for k, v in model.state_dict().items()})
                optimizer.load_state_dict(optimizer.state_dict())
        if not by_hand:
            assert len(step.captured) == 2
        runs.append((torch.stack(losses), [p.detach() for p in model.parameters()]))
    (losses, weights), (again, same) = runs
    if target == "triton":
        assert torch.equal(losses, again)
        assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))
    else:  # torch's convolutions choose their algorithms anew, and some use atomics
        assert torch.allclose(losses, again, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("target", ["triton", "torch"])
def test_every_replay_drops_others(target: str) -> None:
    model = small(target, drop="DROPOUT(0.5) - ")
    step = model.training_step(convdsl.SGD(model.parameters(), lr=0.0))
    x, y = batch()
    losses = [step(x, y) for _ in range(12)]
    assert step.captured and len({loss.item() for loss in losses}) == 12
    torch.manual_seed(3)
    first = [step(x, y).item() for _ in range(3)]
    torch.manual_seed(3)
    assert [step(x, y).item() for _ in range(3)] == first


def test_a_replay_waits_for_nothing_and_keeps_up_with_moved_weights() -> None:
    model = small()
    optimizer = convdsl.SGD(model.parameters(), lr=0.01)
    step = model.training_step(optimizer)
    x, y = batch()
    for _ in range(8):
        step(x, y)
    assert step.captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.param_groups[0]["lr"] = 0.02
        loss = step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    before = [p.detach().clone() for p in model.parameters()]
    step(x, y)
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_graph_reads_nothing_beyond_the_classes() -> None:
    model = small()
    step = model.training_step(convdsl.SGD(model.parameters(), lr=0.0))
    x, y = batch()
    for _ in range(8):
        step(x, y)
    assert step(x, y + 10**9).isnan()
    assert step(x, y).isfinite()


def test_tuning_keeps_what_is_faster_and_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tuned, "own_folder", lambda: tmp_path)
    monkeypatch.setattr(tune_module, "own_folder", lambda: tmp_path)
    net = convdsl.compile_text(
        "input 16@14x14 net N = CONV(32, F=1, bias=false) - BN - RELU - CONV(32, F=1, bias=false)"
        " - BN - RELU - CONV(32) - RELU - POOL - FC(10), SOFTMAX"
    )
    found = convdsl.tune(net, batch=64, dtype=torch.float16, kernels="auto")
    assert found.choices.tiles and len(list(tmp_path.iterdir())) == 1
    x = torch.randn(8, 16, 14, 14, device="cuda").half()
    y = torch.randint(10, (8,), device="cuda")
    losses = []
    state = net.module(target="torch").state_dict()
    for kernels in ("triton", "auto"):
        model = net.module(dtype=torch.float16, kernels=kernels)
        model.load_state_dict(state)
        losses.append(float(model(x, y)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    again = convdsl.tune(net, batch=64, dtype=torch.float16, kernels="auto")
    assert len(again.found) < len(found.found)
