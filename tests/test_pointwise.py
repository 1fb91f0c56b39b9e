"""Activations against torch in float64: values, derivatives, extremes, NaN."""

import math

import pytest
import torch

from convdsl.ir.arguments import ArgumentError
from convdsl.ir.op import LAYERS, Layer
from convdsl.ir.types import TensorType
from convdsl.ops._pointwise import Pointwise, PointwiseGradient
from convdsl.ops.elu import Elu
from convdsl.ops.gelu import Gelu
from convdsl.ops.hardsigmoid import HardSigmoid
from convdsl.ops.hardswish import HardSwish
from convdsl.ops.leaky_relu import LeakyRelu
from convdsl.ops.mish import Mish
from convdsl.ops.relu6 import Relu6
from convdsl.ops.softplus import Softplus
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
ACTIVATIONS: list[Layer] = [
    layer() for layer in LAYERS.values() if issubclass(layer, Pointwise) and layer.is_activation
]
ACTIVATIONS += [LeakyRelu(0.2), LeakyRelu(0.0), Elu(0.5), Elu(0.0), Gelu("tanh")]
ACTIVATIONS += [Softplus(3.0, 2.0), Softplus(0.5, -1.0), Softplus(100.0)]


def title(layer):
    return repr(layer)


def points() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    near_zero = torch.linspace(-1e-3, 1e-3, 101)
    tiny = torch.tensor([1e-30, -1e-30, 1e-8, -1e-8, 0.0, -0.0, 0.35, -0.35])
    far = torch.tensor([20.0, -20.0, 87.0, -87.0, 89.0, -89.0, 100.0, -100.0, 1e4, -1e4])
    middle = 4 * torch.randn(300, generator=generator)
    return torch.cat([near_zero, tiny, far, middle])[None]


def normal_cdf(x: torch.Tensor) -> torch.Tensor:
    """P(X < x) with the digits of its lower tail, which torch.special.ndtr drops."""
    return 0.5 * torch.erfc(-(0.5**0.5) * x)


#: values where torch's own float64 loses its digits: 1 + erf and 1 + tanh cancel for x < 0
EXACT = {
    Gelu(): lambda x: x * normal_cdf(x),
    Gelu("tanh"): lambda x: x * torch.sigmoid((8 / math.pi) ** 0.5 * (x + 0.044715 * x**3)),
}
#: where the argument of exp is rounded first, an error of half a unit in numbers of up to 87
TOLERANCE = dict.fromkeys([*EXACT, Softplus(3.0, 2.0), Softplus(100.0)], 1e-5)


def test_every_activation_is_covered():
    names = "RELU LEAKY_RELU ELU SIGMOID TANH SWISH GELU RELU6 HARDSWISH HARDSIGMOID MISH SELU"
    assert {*names.split(), "SOFTPLUS"} <= {layer.name for layer in ACTIVATIONS}


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_values_are_accurate_to_a_few_units_in_the_last_place(layer):
    x = points()
    (y,) = kernels(layer, x)
    expected = EXACT[layer](x.double()) if layer in EXACT else reference(layer, x.double())[0]
    # relative to the value itself, so also near 0, where the underflow of exp is far away
    relative = (y.double() - expected).abs() / expected.abs().clamp_min(1e-30)
    assert relative.max() < TOLERANCE.get(layer, 1e-6)


@pytest.mark.parametrize("layer", EXACT, ids=title)
def test_the_exact_values_are_torchs_where_nothing_cancels(layer):
    x = points()[points() > -1.0][None].double()
    assert error(EXACT[layer](x), reference(layer, x)[0]) < 1e-14


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_derivatives(layer):
    x = points()
    x = x[x != 0.0][None]  # a kink's derivative is checked below
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    _, (dx,) = forward_backward(layer, [x], dy)
    (expected,) = autograd(layer, [x], dy)
    assert error(dx, expected) < 2e-6
    _, (by_reference,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    assert error(by_reference, expected) < 1e-12


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_derivative_at_zero_is_torchs(layer):
    x, dy = torch.tensor([[0.0, -0.0]]), torch.tensor([[3.0, -2.0]])
    _, (dx,) = forward_backward(layer, [x], dy)
    assert error(dx, autograd(layer, [x], dy)[0]) < 1e-7


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_infinities_and_nan(layer):
    x = torch.tensor([[INF, -INF, float("nan")]])
    (y,) = kernels(layer, x)
    assert error(y, reference(layer, x.double())[0]) < 1e-6
    dy = torch.tensor([[2.0, 2.0, 2.0]])
    _, (dx,) = forward_backward(layer, [x], dy)
    _, (expected,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    # torch has NaN for 0 * inf where the derivative has a limit
    known = ~expected.isnan() | x.isnan()
    assert error(dx[known], expected[known]) < 1e-6


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_numbers_too_small_to_be_normal(layer):
    """They are numbers like others: 0 < 1e-40, so a ReLU keeps it and lets its gradient pass."""
    x = torch.tensor([[1e-40, -1e-40, 1e-45, -1e-45]])
    dy = torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    (y,), (dx,) = forward_backward(layer, [x], dy)
    (wanted,), (expected,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=1e-44)
    assert error(dx, expected) < 1e-6


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_derivatives_reach_their_limits_and_stay_there(layer):
    far = torch.tensor([[1e6, -1e6, 1e20, -1e20, 3e38, -3e38]])
    _, (dx,) = forward_backward(layer, [far], torch.ones_like(far))
    (limit,) = autograd(layer, [torch.tensor([[1e3, -1e3]])], torch.ones(1, 2))
    assert error(dx, limit.repeat(1, 3)) < 1e-6


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
@pytest.mark.parametrize("shape", [(0, 7), (1, 1), (3, 5, 4, 6), (2, 3, 9)], ids=str)
def test_shapes_and_half_precision(layer, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).half()
    assert layer.shape(TensorType(shape[1:])).shape == shape[1:]
    (y,), (dx,) = forward_backward(layer, [x], torch.ones_like(x))
    assert y.dtype is torch.float16 and y.shape == shape
    assert error(y, reference(layer, x.double())[0]) < 1e-3
    assert error(dx, autograd(layer, [x], torch.ones_like(x))[0]) < 2e-3


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=title)
def test_needs_only_output_tells_what_is_saved(layer):
    gradient = PointwiseGradient(layer)
    from_output = ("RELU", "LEAKY_RELU", "RELU6", "SIGMOID", "TANH")
    assert gradient.needs_only_output == (layer.name in from_output)
    assert len([key for key in ("{x}", "{y}") if key in layer.derivative]) == 1


@pytest.mark.parametrize(
    "layer, kinks",
    [
        (Relu6(), [0.0, 6.0]),
        (HardSwish(), [-3.0, 3.0]),
        (HardSigmoid(), [-3.0, 3.0]),
        (Softplus(2.0, 1.0), [0.5]),
        (Softplus(), [20.0]),
    ],
    ids=title,
)
def test_kinks_are_torchs(layer, kinks):
    centres = torch.tensor(kinks)
    up, down = torch.tensor(INF), torch.tensor(-INF)
    x = torch.cat([centres, centres.nextafter(up), centres.nextafter(down)])[None]
    dy = torch.full_like(x, 2.0)
    (y,), (dx,) = forward_backward(layer, [x], dy)
    assert error(y, reference(layer, x.double())[0]) < 1e-6
    assert error(dx, autograd(layer, [x], dy)[0]) < 1e-6


def test_small_values_of_softplus_and_mish_keep_their_digits() -> None:
    x = torch.tensor([[-80.0, -40.0, -17.0, -5.0, -1.0, -1e-4, 1e-4, 1.0]])
    small = x.double().exp().log1p()
    for layer, exact in ((Softplus(), small), (Mish(), x.double() * small.tanh())):
        torch.testing.assert_close(kernels(layer, x)[0].double(), exact, rtol=1e-6, atol=0)
    _, (dx,) = forward_backward(Softplus(), [x], torch.ones_like(x))
    torch.testing.assert_close(dx.double(), x.double().sigmoid(), rtol=1e-6, atol=0)


def test_the_tails_of_the_derivative_of_gelu_keep_their_digits() -> None:
    x = torch.tensor([[-12.0, -9.0, -6.0, -4.0, -2.0, -1.5, 0.0, 2.0, 6.0]])
    _, (dx,) = forward_backward(Gelu(), [x], torch.ones_like(x))
    wide = x.double()
    density = (-wide * wide / 2).exp() / (2 * math.pi) ** 0.5
    exact = normal_cdf(wide) + wide * density
    torch.testing.assert_close(dx.double(), exact, rtol=5e-6, atol=0)


@pytest.mark.parametrize("name, argument", [("LEAKY_RELU", "slope"), ("ELU", "alpha")])
def test_negative_factors_are_refused(name, argument):
    (spec,) = (s for s in LAYERS[name].arguments() if s.name == argument)
    assert spec.convert(0) == 0.0
    with pytest.raises(ArgumentError):
        spec.convert(-0.1)


def test_the_derivative_of_elu_keeps_its_digits_where_it_is_small() -> None:
    x = torch.tensor([[-30.0, -12.0, -3.0, -0.1]])
    _, (dx,) = forward_backward(Elu(4.0), [x], torch.ones_like(x))
    torch.testing.assert_close(dx.double(), 4.0 * x.double().exp(), rtol=1e-5, atol=0)
