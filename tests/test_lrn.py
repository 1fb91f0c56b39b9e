"""LRN against torch's local_response_norm: values, gradients, precision, what is kept."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.launch import Tail
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.lrn import LocalResponseNorm
from tests.kernel_driver import node_of
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
NAN = float("nan")
LAYERS = [
    LocalResponseNorm(),
    LocalResponseNorm(5, 1e-4, 0.75, 2.0),  # AlexNet's
    LocalResponseNorm(1, 2.0, 0.5, 1e-3),
    LocalResponseNorm(3, 5.0, 2.0, 0.5),
    LocalResponseNorm(11, 3.0, 1.0),  # wider than most of the tensors
    LocalResponseNorm(3, 0.0),
    LocalResponseNorm(3, 1.0, 0.0),
]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize(
    "shape", [(0, 4, 2, 2), (1, 1, 1, 1), (2, 7, 5, 3), (2, 130, 3, 1), (3, 6, 8)], ids=str
)
def test_kernels_agree_with_torch(layer, shape):
    generator = torch.Generator().manual_seed(0)
    x, dy = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    (y,), (dx,) = forward_backward(layer, [x], dy)
    expected = F.local_response_norm(x.double(), layer.size, layer.alpha, layer.beta, layer.k)
    assert error(y, expected) < 1e-6
    (by_autograd,) = autograd(layer, [x], dy)
    assert error(dx, by_autograd) < 1e-5
    _, (by_reference,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    assert error(by_reference, by_autograd) < 1e-12


def test_the_formula_by_hand():
    """Two channels, window 3: each divides by 2 + 6/3 * (1 + 4) = 12 to the power 1."""
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1)
    (y,) = kernels(LocalResponseNorm(3, 6.0, 1.0, 2.0), x)
    torch.testing.assert_close(y.flatten(), torch.tensor([1 / 12, 2 / 12]))


def test_halves_are_squared_in_float32():
    layer = LocalResponseNorm(alpha=1.0)
    x = torch.tensor([300.0, -400.0, 1e-4, 0.0, 250.0, 3.0]).half().view(1, 6, 1, 1)
    (y,), (dx,) = forward_backward(layer, [x], torch.ones_like(x))
    assert y.dtype is dx.dtype is torch.float16  # 300^2 is beyond float16
    assert error(y, reference(layer, x.double())[0]) < 1e-3
    assert error(dx, autograd(layer, [x], torch.ones_like(x))[0]) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_plain_torch_takes_16_bits_on_the_cpu(dtype):
    """Torch's function has no 16-bit form there, and 300^2 is beyond float16."""
    net = compile_text("input 6@2x2\nnet A = LRN(alpha=1)\n")
    x = (100 * torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    x.requires_grad_()
    y = net.module(device="cpu", target="torch", dtype=dtype)(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.dtype is dx.dtype is dtype
    layer = LocalResponseNorm(alpha=1.0)
    assert error(y, reference(layer, x.detach().double())[0]) < 1e-2
    assert error(dx, autograd(layer, [x.detach()], torch.ones_like(x))[0]) < 1e-2


def test_nan_and_infinity_spread_over_their_window_only():
    x = torch.ones(1, 9, 1)
    x[0, 2] = NAN
    layer = LocalResponseNorm(3, alpha=1.0)
    (y,), (dx,) = forward_backward(layer, [x], torch.ones_like(x))
    assert error(y, reference(layer, x.double())[0]) < 1e-6
    assert y.isnan().flatten().tolist() == [False, True, True, True] + [False] * 5
    assert not dx[0, 5:].isnan().any() and dx[0, 2].isnan().all()
    x[0, 2] = INF
    (y,) = kernels(layer, x)
    assert error(y, reference(layer, x.double())[0]) < 1e-6


def test_a_huge_window_costs_no_more_than_one_over_all_channels():
    layer = LocalResponseNorm(10**9 + 1, alpha=1e9)
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    (y,) = kernels(layer, x)
    mean = x.square().sum(1, keepdim=True) * (1e9 / (10**9 + 1))
    assert error(y, x / (1 + mean) ** 0.75) < 1e-6


def test_only_the_input_is_kept():
    layer = LocalResponseNorm()
    x = torch.randn(1, 4, 2, 2)
    node = node_of(layer, [x])
    assert len(node.outputs) == 1
    (launch,) = layer.schedule(node, Tail(node.output)).launches
    assert launch.arguments["ALPHA"] == pytest.approx(1e-4 / 5)


@pytest.mark.parametrize(
    "layer, shape, code",
    [(LocalResponseNorm(4), (6, 2, 2), "E222"), (LocalResponseNorm(), (6,), "E214")],
)
def test_what_does_not_fit_is_refused(layer, shape, code):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert refusal.value.code == code and refusal.value.help
