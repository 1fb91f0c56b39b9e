"""PRELU, MAXOUT, CHPOOL, GMP and the channel sums against torch: ties, NaN, halves, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convdsl.ir.graph import Value
from convdsl.ir.op import Layer, ShapeError, Window
from convdsl.ir.types import DType, TensorType
from convdsl.ops._channel_sum import channel_sum
from convdsl.ops.chpool import ChannelPool
from convdsl.ops.gmp import GlobalMaxPool
from convdsl.ops.maxout import Maxout
from convdsl.ops.prelu import Prelu
from tests.kernel_driver import launch_all, stored
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
NAN = float("nan")
PRECISIONS = [(torch.float32, 1e-6), (torch.float16, 2e-3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# PRELU


def prelu_gradients(x: Tensor, slope: Tensor, dy: Tensor) -> list[Tensor]:
    leaves = [x.double().requires_grad_(), slope.double().requires_grad_()]
    return list(torch.autograd.grad(F.prelu(*leaves), leaves, dy.double()))


@pytest.mark.parametrize(
    "shape", [(0, 3, 2, 2), (1, 1), (3, 130), (2, 5, 7), (3, 6, 5, 4)], ids=str
)
@pytest.mark.parametrize("channelwise", [True, False])
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_prelu_agrees_with_torch(shape, channelwise, dtype, tolerance):
    layer = Prelu(channelwise)
    x, dy = random(*shape).to(dtype), random(*shape, seed=1).to(dtype)
    slope = random(shape[1] if channelwise else 1, seed=2)
    (y,), (dx, d_slope) = forward_backward(layer, [x], dy, parameters=[slope])
    assert y.dtype is dx.dtype is dtype and d_slope.dtype is torch.float32
    assert error(y, F.prelu(x.double(), slope.double())) < tolerance
    expected_dx, expected_slope = prelu_gradients(x, slope, dy)
    assert error(dx, expected_dx) < tolerance
    assert error(d_slope, expected_slope) < 1e-5  # summed in float32 whatever the inputs are


def test_prelu_at_the_kink_and_with_nan_is_torchs():
    x = torch.tensor([[0.0, -0.0, NAN, INF, -INF, 1e-30, -1e-30]])
    slope, dy = torch.tensor([0.25]), torch.full((1, 7), 2.0)
    (y,), (dx, d_slope) = forward_backward(Prelu(False), [x], dy, parameters=[slope])
    assert error(y, F.prelu(x.double(), slope.double())) == 0.0
    expected_dx, expected_slope = prelu_gradients(x, slope, dy)
    assert error(dx, expected_dx) == 0.0
    assert d_slope.isnan().all() and expected_slope.isnan().all()


def test_positive_inputs_give_the_slope_no_gradient_even_where_infinite():
    x, dy = torch.tensor([[INF, 3.0]]), torch.tensor([[1.0, INF]])
    _, (_, d_slope) = forward_backward(Prelu(), [x], dy, parameters=[torch.ones(2)])
    assert d_slope.tolist() == [0.0, 0.0]


# sums over rows


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 5, 7, 6), (2, 1, 40, 70), (2, 300, 3), (70, 33), (0, 4, 2, 2)]
)
@pytest.mark.parametrize("factor", ["none", "plain", "negative"])
def test_channel_sums(shape, batched, factor):
    x, other = random(*shape), random(*shape, seed=1)
    kind = TensorType((shape[1],), DType.FLOAT32, batched)
    values = [Value(name, TensorType(shape[1:])) for name in ("x", "factor")]
    result = Value("y", kind)
    plan = channel_sum(
        values[0],
        result,
        None if factor == "none" else values[1],
        negative=factor == "negative",
    )
    tensors = {values[0]: stored(x), values[1]: stored(other)}
    tensors[result] = torch.full((*(shape[:1] if batched else ()), shape[1]), NAN)
    launch_all(plan, tensors, shape[0], torch.float32)
    weights = {"none": 1.0, "plain": other.double(), "negative": other.double().clamp_max(0)}
    terms = (x.double() * weights[factor])[..., None].flatten(2)
    assert error(tensors[result], terms.sum(2) if batched else terms.sum((0, 2))) < 1e-5


def test_long_sums_are_cut_into_stretches_and_keep_their_digits():
    x, result = Value("x", TensorType((2, 90, 80))), Value("y", TensorType((2,), batched=False))
    plan = channel_sum(x, result)
    split = plan.launches[0].arguments["SPLIT"]
    assert isinstance(split, int) and split > 16 and split & (split - 1) == 0
    data = 1.0 + 1e-3 * random(3, 2, 90, 80)
    sums = []
    for _ in range(2):
        tensors = {x: stored(data), result: torch.full((2,), NAN)}
        launch_all(plan, tensors, 3, torch.float32)
        sums.append(tensors[result])
    assert torch.equal(*sums)
    assert ((sums[0].double() / data.double().sum((0, 2, 3))) - 1).abs().max() < 1e-6


# MAXOUT and CHPOOL

POOLINGS: list[Layer] = [
    Maxout(),
    Maxout(3),
    Maxout(6),
    ChannelPool(2),
    ChannelPool(2, 1),
    ChannelPool(3, 1),
    ChannelPool(4, 2),
    ChannelPool(1, 5),
    ChannelPool(3, 1, "avg"),
    ChannelPool(4, 2, "avg"),
    ChannelPool(1, 5, "avg"),
]


@pytest.mark.parametrize("layer", POOLINGS, ids=repr)
@pytest.mark.parametrize("shape", [(0, 6, 2, 2), (1, 6), (3, 6, 7), (2, 6, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_channel_pooling_agrees_with_torch(layer, shape, dtype, tolerance):
    x = random(*shape).to(dtype)
    expected = reference(layer, x.double())
    assert layer.shape(TensorType(shape[1:])).shape == expected[0].shape[1:]
    dy = random(*expected[0].shape, seed=1).to(dtype)
    outputs, (dx,) = forward_backward(layer, [x], dy)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert error(ours, theirs) < tolerance
    (by_autograd,) = autograd(layer, [x], dy)
    assert error(dx, by_autograd) < tolerance
    _, (by_reference,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    assert error(by_reference, by_autograd) < 1e-12


def test_maxout_is_the_maximum_of_consecutive_channels():
    x = random(2, 12, 3, 5)
    (y, _) = kernels(Maxout(3), x)
    assert torch.equal(y, x.view(2, 4, 3, 3, 5).amax(2))


def test_pooling_across_channels_is_pooling_of_the_transposed_tensor():
    x = random(2, 9, 4)
    for layer, pool in (
        (ChannelPool(3, 2), F.max_pool1d),
        (ChannelPool(3, 2, "avg"), F.avg_pool1d),
    ):
        assert error(kernels(layer, x)[0], pool(x.mT.double(), 3, 2).mT) < 1e-6


def test_ties_go_to_the_first_channel_and_nan_wins():
    rows = [[1.0, 1.0], [0.0, NAN], [NAN, 1.0], [-INF, -INF], [-0.0, 0.0], [-INF, -3.0]]
    x = torch.tensor(rows)
    y, index = kernels(Maxout(2), x)
    assert index.flatten().tolist() == [0, 1, 0, 0, 0, 1]
    assert error(y, x.double().max(1, keepdim=True)[0]) == 0.0
    _, (dx,) = forward_backward(Maxout(2), [x], torch.full((6, 1), 2.0))
    assert dx.tolist() == [[2, 0], [0, 2], [2, 0], [2, 0], [2, 0], [0, 2]]


@pytest.mark.parametrize("k, dtype", [(128, DType.INT8), (129, DType.INT32)])
def test_wide_groups_keep_a_wide_index(k, dtype):
    x = random(2, 2 * k)
    x[:, k - 1] = x[:, -1] = 9.0
    y, index = Maxout(k).infer(TensorType((2 * k,)))
    assert index.dtype is dtype and y.shape == (2,)
    (_, index), (dx,) = forward_backward(Maxout(k), [x], torch.ones(2, 2))
    assert index.tolist() == [[k - 1, k - 1]] * 2
    assert error(dx, autograd(Maxout(k), [x], torch.ones(2, 2))[0]) == 0.0


# GMP


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (1, 1, 1), (2, 3, 17), (2, 130, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
def test_global_maxima_agree_with_torch(shape, dtype, tolerance):
    x, dy = random(*shape).to(dtype), random(*shape[:2], seed=1).to(dtype)
    (y, index), (dx,) = forward_backward(GlobalMaxPool(), [x], dy)
    assert torch.equal(y, x.flatten(2).amax(2)) and index.dtype is torch.int32
    assert error(dx, autograd(GlobalMaxPool(), [x], dy)[0]) < tolerance
    assert GlobalMaxPool().window(TensorType(shape[1:])) == Window(everything=True)


def test_global_ties_go_to_the_first_place_and_nan_wins():
    x = torch.tensor([[1.0, 5.0, 5.0, 2.0], [NAN, 7.0, 1.0, 0.0], [-INF] * 4]).view(1, 3, 2, 2)
    (y, index), (dx,) = forward_backward(GlobalMaxPool(), [x], torch.ones(1, 3))
    theirs = F.adaptive_max_pool2d(x, 1)
    assert error(y, theirs[..., 0, 0]) == 0.0
    assert index.tolist() == [[1, 0, 0]]
    assert dx.flatten(2).tolist() == [[[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]]


@pytest.mark.parametrize(
    "layer, shape, code, argument",
    [
        (Maxout(4), (6, 2, 2), "E213", "k"),
        (Maxout(8), (6,), "E213", "k"),
        (ChannelPool(7), (6, 2, 2), "E212", "kernel"),
        (ChannelPool(4), (6, 2, 2), "E213", "kernel"),
        (ChannelPool(2, 3, "avg"), (6, 4), "E213", "kernel"),
        (GlobalMaxPool(), (6,), "E214", None),
    ],
)
def test_what_does_not_fit_is_refused(layer, shape, code, argument):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert (refusal.value.code, refusal.value.argument) == (code, argument)
    assert refusal.value.help
