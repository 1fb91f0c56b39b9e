"""SUMPOOL, L2POOL and WEIGHTEDPOOL against torch, and every pooling layer on sequences."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.op import LAYERS, ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.avgpool import AvgPool
from convdsl.ops.l2pool import L2Pool
from convdsl.ops.maxpool import MaxPool
from convdsl.ops.sumpool import SumPool
from convdsl.ops.weightedpool import WeightedPool, binomial
from tests.op_driver import autograd, error, forward_backward, reference

NAN = float("nan")
#: (size, kernel, stride, pad, round)
GEOMETRIES = [
    ((1, 1), 1, None, 0, "floor"),
    ((7, 5), 2, None, 0, "ceil"),
    ((8, 7), 3, 2, 1, "ceil"),
    ((2, 1), 3, 2, 1, "ceil"),
    ((6, 6), 2, 3, 1, "ceil"),
    ((5, 6), (3, 2), (1, 3), ((1, 1), (0, 0)), "floor"),
    ((6, 5), 3, 2, "same", "floor"),
    ((6, 5), 3, 2, "half", "ceil"),
    ((6, 5), 3, 2, ((0, 1), (1, 0)), "floor"),
]
LAYER_NAMES = ["POOL", "AVGPOOL", "SUMPOOL", "L2POOL", "WEIGHTEDPOOL"]


def weights(layer, x):
    """The parameters of a pooling layer as float32 tensors: a window of weights, or none."""
    kind = TensorType(tuple(x.shape[1:]))
    specs = layer.parameters(kind).values()
    return [torch.tensor(spec.initializer.arguments).reshape(spec.shape) for spec in specs]


def padded(x, window):
    """``x`` with zeros at the start, and more of them at the end than any window needs."""
    sides = [
        side
        for size, (start, _) in zip(window.kernel[::-1], window.padding[::-1], strict=True)
        for side in (start, 2 * size + 4)
    ]
    return F.pad(x, sides)


def windows(layer, x):
    """(N, C, OH, OW, KH, KW): every window of a map, counted out by hand."""
    kind = TensorType(tuple(x.shape[1:]))
    window = layer.window(kind)
    height, width = layer.shape(kind).spatial
    return (
        padded(x, window)
        .unfold(2, window.kernel[0], window.stride[0])[:, :, :height]
        .unfold(3, window.kernel[1], window.stride[1])[:, :, :, :width]
    )


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("make", [SumPool, L2Pool, WeightedPool])
def test_kernels_agree_with_windows_counted_out(make, geometry):
    size, *arguments = geometry
    layer = make(*arguments)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
    parameters = weights(layer, x)
    leaf = x.double().requires_grad_()
    if make is SumPool:
        expected = windows(layer, leaf).sum((-1, -2))
    elif make is WeightedPool:
        expected = (windows(layer, leaf) * parameters[0].double()).sum((-1, -2))
    else:
        inside = windows(AvgPool(*arguments), torch.ones_like(leaf)).sum((-1, -2))
        mean = reference(AvgPool(*arguments), leaf.square())[0]
        expected = (mean * windows(layer, leaf)[0, 0, 0, 0].numel()).sqrt()
        assert inside.min() >= 1  # so that no root is taken of zero
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected_dx,) = torch.autograd.grad(expected, leaf, dy.double())
    (y,), (dx, *_) = forward_backward(layer, [x], dy, parameters=parameters)
    assert error(y, expected) < 1e-6
    assert error(dx, expected_dx) < 1e-5
    (meant,) = reference(layer, x.double(), parameters=[p.double() for p in parameters])
    assert error(meant, expected) < 1e-12


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@pytest.mark.parametrize("stride", [None, 1, 3])
def test_l2pool_is_torchs_lp_pool(rounding, stride):
    x = torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))
    layer = L2Pool(2, stride, round=rounding)
    ceil = rounding == "ceil"
    expected = F.lp_pool2d(x.double(), 2.0, 2, stride, ceil_mode=ceil)
    (y,), _ = forward_backward(layer, [x], torch.ones_like(expected).float())
    assert error(y, expected) < 1e-6
    row = x[:, :, 0]
    expected = F.lp_pool1d(row.double(), 2.0, 2, stride, ceil_mode=ceil)
    in_line = L2Pool(2, stride, round=rounding, axes=1)
    (y,), _ = forward_backward(in_line, [row], torch.ones_like(expected).float())
    assert error(y, expected) < 1e-6
    assert error(reference(in_line, row.double())[0], expected) < 1e-12


def test_sumpool_is_torchs_mean_without_its_divisor():
    x = torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))
    expected = F.avg_pool2d(x.double(), 3, 2, 1, ceil_mode=True, divisor_override=1)
    (y,), _ = forward_backward(SumPool(3, 2, 1, "ceil"), [x], torch.ones_like(expected).float())
    assert error(y, expected) < 1e-6


@pytest.mark.parametrize("by", ["kernels", "reference"])
def test_l2pool_hands_nothing_back_to_a_window_of_zeros(by):
    x = torch.zeros(1, 1, 2, 6)
    x[..., 4:] = torch.tensor([3.0, 4.0])
    x[0, 0, 1, 2] = NAN
    dy = torch.ones(1, 1, 1, 3)
    if by == "kernels":
        (y,), (dx,) = forward_backward(L2Pool(), [x], dy)
    else:
        leaf = x.requires_grad_()
        (y,) = reference(L2Pool(), leaf)
        (dx,) = torch.autograd.grad(y, leaf, dy)
    root = 50**0.5
    assert error(y, torch.tensor([[[[0.0, NAN, root]]]])) < 1e-6
    rows = [[0.0, 0.0, NAN, NAN, 3 / root, 4 / root]] * 2
    assert error(dx, torch.tensor([[rows]])) < 1e-6


@pytest.mark.parametrize("size", range(1, 8))
def test_weights_are_symmetric_fall_from_the_middle_and_sum_to_one(size):
    numbers = binomial(size)
    assert sum(numbers) == pytest.approx(1.0, abs=1e-15)
    assert numbers == numbers[::-1]
    half = numbers[: (size + 1) // 2]
    assert half == sorted(set(half))


def test_the_three_wide_weights_are_the_blur_of_the_lectures():
    """1 2 1, 2 4 2, 1 2 1 over 16: the Gaussian blur of the lectures' seed 001."""
    (spec,) = WeightedPool(3).parameters(TensorType((1, 9, 9))).values()
    assert [16 * w for w in spec.initializer.arguments] == [1, 2, 1, 2, 4, 2, 1, 2, 1]
    assert spec.shape == (3, 3)


def test_weights_are_no_parameters_and_not_saved():
    network = compile_text("input 2@9x9\nnet A = WEIGHTEDPOOL(3, S=2) - WEIGHTEDPOOL\n")
    model = network.module(target="torch")
    assert not list(model.parameters()) and not model.state_dict()
    assert network.graph.learned == ()


@pytest.mark.parametrize("name", LAYER_NAMES)
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_sequences_in_every_precision(name, n, dtype):
    layer = LAYERS[name](3, 2, 1, "ceil", axes=1)
    x = torch.randn(n, 130, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    parameters = weights(layer, x)
    expected = reference(layer, x.double(), parameters=parameters)[0]
    dy = torch.randn_like(expected).to(dtype)
    (y, *_), (dx, *_) = forward_backward(layer, [x], dy, parameters=parameters)
    assert y.dtype is dx.dtype is dtype and y.shape == (n, 130, 5)
    leaf = x.double().requires_grad_()
    (expected_dx,) = torch.autograd.grad(
        reference(layer, leaf, parameters=parameters)[0], leaf, dy.double()
    )
    tolerance = 1e-5 if dtype is torch.float32 else 5e-3
    assert error(y, expected) < tolerance
    assert error(dx, expected_dx) < tolerance


def test_sequences_are_pooled_by_torchs_functions():
    x = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(0))
    for layer, theirs in (
        (MaxPool(3, 2, 1, "ceil", axes=1), F.max_pool1d(x, 3, 2, 1, ceil_mode=True)),
        (AvgPool(3, 2, 1, "ceil", axes=1), F.avg_pool1d(x, 3, 2, 1, ceil_mode=True)),
        (LAYERS["GAP"](axes=1), x.mean(2)),
    ):
        (y, *_), (dx,) = forward_backward(layer, [x], torch.ones_like(theirs))
        assert error(y, theirs) < 1e-6
        assert error(dx, autograd(layer, [x], torch.ones_like(theirs))[0]) < 1e-6


def test_ties_and_nan_in_a_sequence_are_torchs():
    x = torch.tensor([[[1.0, 1.0, NAN, 2.0, -0.0, 0.0, NAN, NAN]]])
    (y, index), (dx,) = forward_backward(MaxPool(2, axes=1), [x], torch.ones(1, 1, 4))
    theirs, flat = F.max_pool1d(x, 2, return_indices=True)
    assert error(y, theirs) == 0.0
    assert [2 * i + int(j) for i, j in enumerate(index.flatten())] == flat.flatten().tolist()
    assert dx.flatten().tolist() == [1, 0, 1, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("name", LAYER_NAMES)
def test_a_program_pools_a_sequence_along_its_axis(name):
    graph = compile_text(f"input 3@9\nnet A = {name}(3, S=2, P=same) - {name}\n").graph
    assert [node.output.type.shape for node in graph.nodes] == [(3, 5), (3, 2)]
    assert {node.op.axes for node in graph.nodes} == {1}
    assert graph.nodes[0].op.window(TensorType((3, 9))).padding == ((1, 1),)


@pytest.mark.parametrize("name", LAYER_NAMES)
@pytest.mark.parametrize(
    "values, argument",
    [
        ({"kernel": (3, 3)}, "kernel"),
        ({"stride": (1, 2)}, "stride"),
        ({"pad": ((1, 1), (1, 1)), "kernel": 3}, "pad"),
    ],
)
def test_two_numbers_for_one_axis_are_refused(name, values, argument):
    with pytest.raises(ShapeError) as refusal:
        LAYERS[name](**values).shape(TensorType((3, 9)))
    assert (refusal.value.code, refusal.value.argument) == ("E204", argument)
    with pytest.raises(ShapeError) as refusal:
        LAYERS[name]().shape(TensorType((3,)))
    assert refusal.value.code == "E214"
