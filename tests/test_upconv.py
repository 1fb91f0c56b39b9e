"""UPCONV: figures, torch's own transposed convolution, kernels against float64 autograd."""

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import nn

from convdsl.compiler import compile_text
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.conv import Conv
from convdsl.ops.upconv import UpConv, UpConvGradInput
from convdsl.report.costs import measure
from convdsl.report.explain import explain
from tests.conv_driver import (
    TOLERANCE,
    assert_close,
    assert_targets_agree,
    by_kernels,
    by_meaning,
    operands,
    oracle,
)
from tests.kernel_driver import run

# layer, input map, batch
GRID = [
    (UpConv(2), (3, 4, 5), 2),
    (UpConv(6, (3, 3), (2, 2), (1, 1), (1, 1), groups=2), (4, 5, 3), 3),
    (UpConv(3, (4, 3), (1, 3), (1, 0), dilation=(2, 2), bias=False), (2, 4, 3), 1),
    (UpConv(3, stride=(3, 3)), (2, 3, 4), 2),  # outputs that no input reaches
    (UpConv(2, dilation=(3, 3), output_padding=(2, 2)), (2, 3, 3), 1),  # wider than the stride
    (UpConv(2, (2, 2), (4, 2), output_padding=(3, 0)), (3, 2, 3), 1),
    (UpConv(5, (1, 1), (1, 1)), (3, 4, 4), 2),
    (UpConv(1, (1, 1), (2, 2)), (1, 1, 1), 1),
    (UpConv(4, (3, 3), (2, 2), (2, 2), dilation=(2, 2)), (2, 4, 5), 1),  # share a divisor
    (UpConv(4, (3, 3), (1, 1), (2, 2)), (17, 5, 4), 1),  # cuts off as much as it adds
    (UpConv(20, (4, 4), (2, 2), (1, 1)), (32, 3, 3), 1),
    (UpConv(3), (2, 9, 9), 3),  # pixels beyond one tile
    (UpConv(4, groups=4, bias=False), (4, 3, 3), 2),
    (UpConv(4), (3, 5, 5), 0),
]
NAMES = [f"{layer.filters}x{layer.kernel}s{layer.stride}on{x}n{n}" for layer, x, n in GRID]


def torchs(layer, channels):
    """torch's module of the same arguments."""
    return nn.ConvTranspose2d(
        channels,
        layer.filters,
        layer.kernel,
        layer.stride,
        layer.pad,
        layer.output_padding,
        layer.groups,
        layer.bias,
        layer.dilation,
        dtype=torch.float64,
    )


@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_shapes_and_parameters_are_torchs(layer, shape, n):
    module = torchs(layer, shape[0])
    kind = TensorType(shape)
    expected = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert {name: spec.shape for name, spec in layer.parameters(kind).items()} == expected
    with torch.no_grad():
        y = module(torch.zeros(1, *shape, dtype=torch.float64))
    assert layer.shape(kind).shape == tuple(y.shape[1:])


@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_meaning(layer, shape, n):
    x, parameters, dy = operands(layer, shape, n, torch.float64)
    double = [p.double() for p in parameters]
    y, gradients = oracle(layer, x, parameters, dy)
    module = torchs(layer, shape[0])
    module.load_state_dict(dict(zip(layer.parameters(TensorType(shape)), double, strict=True)))
    assert torch.equal(module(x.double()), y)
    mine, found = by_meaning(layer, x.double(), double, dy.double())
    for actual, expected in zip((mine, *found), (y, *gradients), strict=True):
        assert_close(actual, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_kernels(layer, shape, n, dtype):
    x, parameters, dy = operands(layer, shape, n, dtype)
    y, gradients = oracle(layer, x, parameters, dy)
    mine, found = by_kernels(layer, x, parameters, dy)
    assert mine.dtype == found[0].dtype == dtype
    assert {t.dtype for t in found[1:]} == {torch.float32}
    for actual, expected in zip((mine, *found), (y, *gradients), strict=True):
        assert_close(actual, expected, TOLERANCE[dtype])


def test_it_is_the_gradient_of_a_convolution_to_its_input():
    up = UpConv(3, (3, 3), (2, 2), (1, 1), (1, 1), bias=False)
    x, (weight,), _ = operands(up, (4, 3, 3), 2, torch.float64)
    y, _ = by_meaning(up, x, (weight,), torch.zeros(2, 3, 6, 6, dtype=torch.float64))
    down = Conv(4, (3, 3), (2, 2), bias=False)
    image = torch.randn(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    assert down.shape(TensorType((3, 6, 6))).shape == (4, 3, 3)
    z = F.conv2d(image, weight, stride=2, padding=1)
    (expected,) = torch.autograd.grad(z, image, x)
    torch.testing.assert_close(y, expected)


def test_figures_of_unets_up_convolution():
    """1024@28x28 -> 512@56x56 with 2x2 filters (Ronneberger et al., 2015)."""
    x = TensorType((1024, 28, 28))
    layer = UpConv(512)
    assert layer.shape(x).shape == (512, 56, 56)
    assert layer.macs(x) == 4 * 1024 * 512 * 28 * 28
    assert layer.formulas(x) == (
        "parameters = F*F*C1*K + K = 2*2*1024*512 + 512 = 2,097,664",
        "MACs = F*F*C1*K * H1*W1 = 2*2*1024*512 * 28*28 = 1,644,167,168",
    )
    grouped = UpConv(6, (3, 2), groups=2, bias=False).formulas(TensorType((4, 5, 5)))
    assert grouped[0] == "parameters = FH*FW*C1*K/groups = 3*2*4*3 = 72"


def test_start_is_glorots_whatever_the_stride():
    spec = UpConv(6).parameters(TensorType((4, 5, 5)))["weight"]
    assert spec.permute == (0, 2, 3, 1)
    assert spec.initializer.arguments[1] == pytest.approx((6 / (4 * 4 + 6 * 4)) ** 0.5)


@pytest.mark.parametrize(
    ("layer", "shape", "code", "argument"),
    [
        (UpConv(4, groups=3), (3, 5, 5), "E213", "groups"),
        (UpConv(3, groups=3), (4, 5, 5), "E213", "groups"),
        (UpConv(3, pad=(3, 0)), (4, 2, 2), "E212", "pad"),
        (UpConv(3, output_padding=(2, 0)), (4, 2, 2), "E222", "output_padding"),
        (UpConv(4, groups=2, max_norm=1.0), (4, 2, 2), "E204", "max_norm"),
        (UpConv(4), (12,), "E214", None),
        (UpConv(4), (3, 12), "E214", None),
    ],
)
def test_misfits(layer, shape, code, argument):
    with pytest.raises(ShapeError) as caught:
        layer.shape(TensorType(shape))
    assert (caught.value.code, caught.value.argument) == (code, argument)
    assert caught.value.message.format(**caught.value.values)


def test_torch_refuses_the_same_output_padding():
    layer = UpConv(3, (2, 2), (2, 2), output_padding=(2, 2))
    with pytest.raises(RuntimeError, match="output padding must be smaller"):
        torchs(layer, 4)(torch.zeros(1, 4, 2, 2, dtype=torch.float64))


def test_nan_goes_where_its_input_reaches():
    layer = UpConv(2, (3, 3), (2, 2))
    x, parameters, dy = operands(layer, (3, 4, 3), 1, torch.float32)
    x[0, 1, 2, 1] = float("nan")
    y, _ = oracle(layer, x, parameters, dy)
    mine, _ = by_kernels(layer, x, parameters, dy)
    assert 0 < y.isnan().sum() < y.numel()
    assert torch.equal(mine.isnan(), y.isnan())


@triton.jit
def scaled_residual(acc, offsets, column, mask, aux, seed):
    other = tl.load(aux[0] + offsets, mask=mask, other=0.0)
    return acc * tl.load(seed) + other


def test_epilogues_see_offsets_of_the_whole_tensor():
    layer = UpConv(4, (3, 3), (2, 2), groups=2)
    x, parameters, dy = operands(layer, (4, 3, 5), 2, torch.float32)
    (y,) = run(layer, x, parameters=parameters)
    (found,) = run(layer, x, parameters=parameters, epilogue=scaled_residual, aux=(dy,), seed=3)
    torch.testing.assert_close(found, y * 3 + dy)
    op = UpConvGradInput(layer.geometry(TensorType((4, 3, 5))))
    (dx,) = run(op, dy, parameters=parameters[:1])
    (found,) = run(op, dy, parameters=parameters[:1], epilogue=scaled_residual, aux=(x,), seed=2)
    torch.testing.assert_close(found, dx * 2 + x)


@pytest.mark.parametrize(
    ("text", "size", "jump"),
    [
        ("UPCONV(2)", 1, 0.5),  # each output sees one input
        ("UPCONV(2, F=3, S=2, P=1)", 2, 0.5),
        ("UPCONV(2, F=4, S=2, P=1)", 2, 0.5),
        ("UPCONV(2, F=3, S=1, P=1)", 3, 1),
        ("POOL(2) - UPCONV(2) - CONV(2)", 4, 1),  # pairs, and every place sees its pair's
        ("UPCONV(2) - CONV(2) - CONV(2)", 3, 0.5),
    ],
)
def test_receptive_field_shrinks_the_jump(text, size, jump):
    network = compile_text(f"input 2@16x16\nnet N = {text}\n")
    field = measure(network.graph).rows[-1].field
    assert field.size == (size, size)
    assert field.jump == (jump, jump)


@pytest.mark.parametrize(
    "chain",
    [
        "UPCONV(4) - RELU",
        "CONV(4) as e - POOL - CONV(4) - TANH - UPCONV(4) - CONCAT{ ID | @e } - CONV(2, F=1)",
        "UPCONV(3, F=3, S=2, P=1, output_padding=1, bias=false) - ADD{ ID | SIGMOID }",
    ],
)
def test_networks(chain):
    assert_targets_agree(f"input 2@6x4\nnet N = {chain}\n")


def test_explanation_has_the_formula_with_its_numbers():
    text = "UPCONV(4, F=3x2, S=2, P=1x0, output_padding=1x0, dilation=2x1)"
    network = compile_text(f"input 2@6x4\nnet N = {text}\n")
    row = measure(network.graph).rows[0]
    shown = explain(row, network.graph.notation).splitlines()
    assert shown[3:5] == [
        "  W2 = (W1 - 1)*S - 2P + F = (4 - 1)*2 - 0 + 2 = 8",
        "  H2 = (H1 - 1)*S - 2P + D(F-1)+1 + output_padding = (6 - 1)*2 - 2 + 5 + 1 = 14",
    ]
    assert row.output.spatial == (14, 8)
    assert "r2 = r1 + floor(D*(F - 1)/S)*j1 = 1 + floor(2*(3 - 1)/2)*1 = 3" in "".join(shown)
