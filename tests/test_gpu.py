"""The generated kernels on a CUDA or ROCm device, bfloat16 included (`pytest -m gpu`)."""

import os

import pytest
import torch
from torch import Tensor

import convdsl
from convdsl.codegen.triton_module import emit_triton
from convdsl.compiler import INFERENCE_PIPELINE, PIPELINE, run_passes
from convdsl.reference import run_forward
from convdsl.runtime.load import load_text
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
