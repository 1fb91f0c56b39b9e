"""Batch normalisation against torch's, in training, evaluation and at inference."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convdsl.compiler import compile_text
from convdsl.ops._batch_norm import GradientSums, NormalizeGradient
from convdsl.ops.bn import BatchNorm, FixedNorm
from convdsl.passes.differentiate import differentiate
from convdsl.reference import run_backward, run_forward
from tests.op_driver import error, kernels, reference

SHAPES = [(2, 6, 5, 7), (9, 7), (3, 130, 2, 3), (70, 3, 9, 1), (4, 5, 11), (2, 1, 1, 1)]


def tensors(*shape: int, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, list[Tensor]]:
    """x, and (weight, bias, running mean, running variance) in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + shift
    channels = [torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(4)]
    return x, [*channels[:3], channels[3].abs() + 0.5]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_are_torch_batch_norm(shape, training):
    x, (weight, bias, mean, var) = tensors(*shape)
    expected_mean, expected_var = mean.clone(), var.clone()
    expected = F.batch_norm(x, expected_mean, expected_var, weight, bias, training, 0.3, 1e-3)
    parameters = [t.float() for t in (weight, bias, mean, var)]
    layer = BatchNorm(momentum=0.3, eps=1e-3)
    ours = kernels(layer, x.float(), parameters=parameters, seed=0 if training else -1)
    assert error(ours[0], expected) < 1e-5
    assert error(ours[4], expected_mean) < 1e-5
    assert error(ours[5], expected_var) < 1e-5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_gradient_kernels_are_autograds(shape, training):
    x, (weight, bias, mean, var) = tensors(*shape)
    leaves = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    y = F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training, 0.1, 1e-5)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(y, leaves, dy)
    x, weight = x.detach(), weight.detach()
    axes = [a for a in range(x.dim()) if a != 1]
    mean = x.mean(axes) if training else mean
    rstd = ((x.var(axes, correction=0) if training else var) + 1e-5).rsqrt()
    seed = 0 if training else -1
    dy, x, mean, rstd = [t.float() for t in (dy, x, mean, rstd)]
    dw, db, *coefficients = kernels(
        GradientSums(), dy, x, mean, rstd, parameters=[weight.float()], seed=seed
    )
    dx = kernels(NormalizeGradient(), dy, x, mean, *coefficients)[0]
    for mine, theirs in zip((dx, dw, db), expected, strict=True):
        assert error(mine, theirs) < 2e-5


def test_statistics_keep_their_digits_far_from_zero():
    """E[x^2] - E[x]^2 would lose all of them here."""
    x, parameters = tensors(8, 3, 16, 16, shift=4096.0)
    ours = kernels(BatchNorm(), x.float(), parameters=[t.float() for t in parameters])
    expected = F.batch_norm(
        x.float().double(), None, None, parameters[0], parameters[1], True, 0.1, 1e-5
    )
    assert error(ours[0], expected) < 2e-3


def test_half_precision_computes_in_float32():
    x, parameters = tensors(4, 6, 5, 5)
    half = x.half()
    ours = kernels(BatchNorm(), half, parameters=[t.float() for t in parameters])
    expected = F.batch_norm(half.double(), None, None, *parameters[:2], True, 0.1, 1e-5)
    assert ours[0].dtype == torch.float16
    assert error(ours[0], expected) < 2e-3


def test_nan_stays_in_its_channel():
    x, parameters = tensors(4, 3, 5, 5)
    x[1, 1, 2, 2] = float("nan")
    ours = kernels(BatchNorm(), x.float(), parameters=[t.float() for t in parameters])[0]
    assert ours[:, 1].isnan().all()
    assert not ours[:, [0, 2]].isnan().any()


def test_at_inference_it_is_one_expression():
    x, parameters = tensors(3, 6, 5, 7)
    short = [t.float() for t in parameters]
    expected = reference(FixedNorm(1e-3), x, parameters=parameters)[0]
    assert error(kernels(FixedNorm(1e-3), x.float(), parameters=short)[0], expected) < 1e-5
    network = compile_text("input 6@5x7\nnet = CONV(4) - BN - RELU")
    assert [node.op.title for node in network.inference.nodes] == ["conv_batchnorm_relu"]


PROGRAM = """
input 3@8x8
default CONV(bias=false)
net Small = CONV(6) - BN - RELU - ADD{ CONV(6) - BN(momentum=0.2) | ID } - RELU - POOL
  - FC(8) - BN - RELU - FC(4), SOFTMAX
"""


class Torch(nn.Module):
    """The same network by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2 = (nn.Conv2d(c, 6, 3, padding=1, bias=False) for c in (3, 6))
        self.bn, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6, momentum=0.2)
        self.fc, self.bn3, self.fc2 = nn.Linear(96, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x)) + x), 2)
        return self.fc2(F.relu(self.bn3(self.fc(x.flatten(1)))))


def same(ours: nn.Module, theirs: nn.Module) -> None:
    """Both get the same parameters and statistics, in order of use."""
    network = [m for m in ours.modules() if not list(m.children()) and m is not ours]
    order = ["conv", "bn", "conv2", "bn2", "fc", "bn3", "fc2"]
    for mine, name in zip(network, order, strict=True):
        mine.load_state_dict(
            {
                k: v
                for k, v in getattr(theirs, name).state_dict().items()
                if k != "num_batches_tracked"
            }
        )


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_network_trains_and_evaluates_as_torchs(target):
    torch.manual_seed(0)
    theirs = Torch()
    ours = compile_text(PROGRAM).module("cpu", target=target)
    same(ours, theirs)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (ours, theirs)]
    for _ in range(2):
        x, labels = torch.randn(6, 3, 8, 8), torch.randint(4, (6,))
        losses = [ours(x, labels), F.cross_entropy(theirs(x), labels)]
        assert abs(losses[0].item() - losses[1].item()) < 1e-4
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    theirs_state = [v for k, v in theirs.state_dict().items() if "num_batches" not in k]
    mine = ours.state_dict()
    assert len(mine) == len(theirs_state)
    copied = copy.deepcopy(theirs)
    same(ours, copied)  # equal from here on, whatever was rounded
    ours.eval()
    theirs.eval()
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    x = torch.randn(5, 3, 8, 8, requires_grad=True)
    with_grad = ours(x)
    assert error(with_grad, theirs(x)) < 1e-4
    (dx,) = torch.autograd.grad(with_grad.square().sum(), x)
    (expected,) = torch.autograd.grad(theirs(x).square().sum(), x)
    assert error(dx, expected) < 1e-4
    with torch.no_grad():
        assert error(ours(x), theirs(x)) < 1e-4
    for key, value in ours.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_shared_statistics_move_at_every_use(target):
    text = """
    input a: 3@4x4
    input b: 3@4x4
    module tower = BN(momentum=0.5) - RELU
    net Two = ADD{ @a - tower | @b - tower }
    """
    model = compile_text(text).module("cpu", target=target)
    a, b = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4) * 3 + 1
    norm = nn.BatchNorm2d(3, momentum=0.5)
    expected = F.relu(norm(a)) + F.relu(norm(b))
    assert error(model(a, b), expected) < 1e-5
    state = {k.rsplit(".", 1)[1]: v for k, v in model.state_dict().items()}
    assert error(state["running_mean"], norm.running_mean) < 1e-5
    assert error(state["running_var"], norm.running_var) < 1e-5
    assert len(state) == 4
    model.eval()
    norm.eval()
    with torch.no_grad():
        assert error(model(a, b), F.relu(norm(a)) + F.relu(norm(b))) < 1e-5


def test_statistics_are_no_parameters():
    network = compile_text(PROGRAM)
    model = network.module("cpu")
    assert network.parameters_count == sum(p.numel() for p in model.parameters())
    assert "running_var" in "".join(model.state_dict())
    text = network.table()
    assert f"{network.parameters_count:,}" in text


def test_oracle_has_torchs_gradient_in_training():
    graph = differentiate(compile_text("input 3@5x4\nnet = CONV(4) - BN - RELU").graph)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    start = {
        p.path: torch.rand(p.value.type.shape, generator=generator, dtype=torch.float64)
        for p in graph.parameters
    }
    leaves = [x, *(start[p.path].requires_grad_() for p in graph.learned)]
    values = run_forward(graph, [x], start, training=True)
    y = values[graph.outputs[0].value]
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(y, leaves, dy)
    detached = {v: t.detach() for v, t in values.items()}
    ours = run_backward(graph, detached, [dy], training=True)
    for value, theirs in zip(
        (*graph.inputs, *(p.value for p in graph.learned)), expected, strict=True
    ):
        assert error(ours[value], theirs) < 1e-10


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_one_value_per_channel_has_no_variance(target):
    """A batch of one vector in training: torch refuses it, and so do we, before anything runs."""
    model = compile_text("input 7\nnet = FC(4) - BN").module("cpu", target=target)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"BN.* more than one value per channel"):
        model(torch.randn(1, 7))
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    model.eval()
    assert model(torch.randn(1, 7)).shape == (1, 4)


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_empty_batch(target):
    model = compile_text("input 3@4x4\nnet = CONV(4) - BN - RELU").module("cpu", target=target)
    model.eval()
    assert model(torch.zeros(0, 3, 4, 4)).shape == (0, 4, 4, 4)


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_statistics_of_what_nobody_reads_move_too(target: str) -> None:
    net = compile_text("input 3@4x4 net N = CONV(4) as t - BN - CONV(4) - BN - ADD{@t | @t}")
    model = net.module(device="cpu", target=target).train()
    model(torch.randn(3, 3, 4, 4))
    means = [b for name, b in model.named_buffers() if name.endswith("running_mean")]
    assert len(means) == 2 and all(mean.abs().sum() > 0 for mean in means)
