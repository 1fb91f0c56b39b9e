"""LOCAL and LOCAL1D against torch: kernels, gradients, and the lectures' count of weights."""

import pytest
import torch
import torch.nn.functional as F

import convdsl
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.local import Local
from convdsl.ops.local1d import Local1d
from tests.op_driver import error, forward_backward, kernels, reference

CASES = [
    # (layer, channels and sizes)
    (Local(4), (3, 6, 5)),
    (Local(1, (1, 1)), (1, 1, 1)),
    (Local(3, (3, 2), (2, 3), "same"), (2, 7, 8)),
    (Local(2, (2, 2), (3, 3)), (5, 7, 8)),  # pixels that no window sees
    (Local(2, (3, 3), (1, 2), "full", False), (2, 3, 4)),
    (Local(5, (3, 3), (2, 1), ((1, 0), (0, 2))), (2, 4, 5)),
    (Local(17, (1, 1)), (33, 2, 3)),
    (Local(70, (3, 3), pad="half"), (4, 3, 2)),
    (Local1d(4), (3, 8)),
    (Local1d(1, (1,), bias=False), (1, 1)),
    (Local1d(3, (4,), (3,), "same"), (2, 9)),
    (Local1d(2, (2,), (5,), ((1, 2),)), (5, 9)),
]


def tensors(layer, shape, n=2, seed=0):
    """Input, parameters in the order of their type and the gradient of the output, float32."""
    generator = torch.Generator().manual_seed(seed)
    x = TensorType(shape)
    shapes = [(n, *shape), *(spec.shape for spec in layer.parameters(x).values())]
    shapes.append((n, *layer.shape(x).shape))
    return [torch.randn(size, generator=generator) for size in shapes]


def by_unfold(layer, x, weight, bias=None):
    """Every position by itself: columns of F.unfold times the weights of that position."""
    geometry = layer.geometry(TensorType(tuple(x.shape[1:])))
    window, y = geometry.window, geometry.y
    x = F.pad(x, [side for pair in reversed(window.padding) for side in pair])
    kernel, stride = window.kernel, window.stride
    if x.dim() == 3:
        x, kernel, stride = x.unsqueeze(2), (1, *kernel), (1, *stride)
    columns = F.unfold(x, kernel, stride=stride)  # (N, C*R*S, positions)
    weights = weight.reshape(columns.shape[2], y.channels, columns.shape[1])
    rows = [columns[:, :, i] @ weights[i].T for i in range(columns.shape[2])]
    result = torch.stack(rows, 2).unflatten(2, y.spatial)
    return result if bias is None else result + bias


@pytest.mark.parametrize("layer, shape", CASES, ids=str)
def test_forward_and_gradients_are_those_of_a_product_per_position(layer, shape):
    x, *parameters, dy = tensors(layer, shape)
    leaves = [t.double().requires_grad_() for t in (x, *parameters)]
    expected = by_unfold(layer, *leaves)
    theirs = torch.autograd.grad(expected, leaves, dy.double())
    (y,), ours = forward_backward(layer, [x], dy, parameters=parameters)
    assert error(y, expected.detach()) < 1e-5
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, other) < 1e-5
    exact = [t.double() for t in (x, *parameters)]
    (y,), ours = forward_backward(layer, exact[:1], dy.double(), parameters=exact[1:], by=reference)
    assert error(y, expected.detach()) < 1e-12
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, other) < 1e-10


@pytest.mark.parametrize("layer, shape", [CASES[2], CASES[8]], ids=str)
@pytest.mark.parametrize("n", [0, 1, 19])
def test_batches_and_half_precision(layer, shape, n):
    x, *parameters, dy = (t.half() for t in tensors(layer, shape, n))
    leaves = [t.double().requires_grad_() for t in (x, *parameters)]
    expected = by_unfold(layer, *leaves)
    theirs = torch.autograd.grad(expected, leaves, dy.double())
    (y,), (dx, *d_parameters) = forward_backward(layer, [x], dy, parameters=parameters)
    assert y.dtype is dx.dtype is torch.float16
    for mine, other in zip((y, dx, *d_parameters), (expected.detach(), *theirs), strict=True):
        assert error(mine, other) < 3e-3
    # sums over the batch are kept in float32; none over an empty one is 0, not left unwritten
    assert all(d.dtype is torch.float32 for d in d_parameters)


def test_nan_stays_in_the_windows_that_see_it():
    layer = Local(2, (2, 2))
    x, weight, bias, _ = tensors(layer, (3, 4, 5))
    x[0, 1, 2, 2] = float("nan")
    (y,) = kernels(layer, x, parameters=[weight, bias], orders=orders(layer, (3, 4, 5)))
    expected = by_unfold(layer, x, weight, bias)
    assert torch.equal(y.isnan(), expected.isnan())
    assert int(y.isnan().sum()) == 4 * 2


def orders(layer, shape):
    return [spec.permute for spec in layer.parameters(TensorType(shape)).values()]


def test_two_runs_give_equal_bits():
    layer, shape = Local(3, (3, 3)), (2, 5, 5)
    x, *parameters, dy = tensors(layer, shape, n=37)
    first, second = (forward_backward(layer, [x], dy, parameters=parameters) for _ in range(2))
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert torch.equal(one, other)


def test_with_equal_weights_everywhere_it_is_the_convolution():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn((4, 3, 3, 2), generator=generator)
    bias = torch.randn((4,), generator=generator)
    x = torch.randn((2, 3, 6, 5), generator=generator)
    layer = Local(4, (3, 2), (2, 1), ((1, 1), (0, 1)))
    y = layer.shape(TensorType((3, 6, 5)))
    weight = shared.expand(*y.spatial, *shared.shape)
    biases = bias[:, None, None].expand(y.shape)
    (ours,) = kernels(layer, x, parameters=[weight, biases], orders=orders(layer, (3, 6, 5)))
    theirs = F.conv2d(F.pad(x, (0, 1, 1, 1)), shared, bias, stride=(2, 1))
    assert error(ours, theirs) < 1e-5


def parameter_count(text):
    graph = convdsl.compile_text(text).graph
    return sum(p.value.type.elements for p in graph.parameters)


def test_weights_of_the_lectures_seven_inputs_and_three_hidden_units():
    """The lectures' seed 003: full connection 21 weights, local 9, shared 3."""
    assert parameter_count("input 7 net Full = FC(3, bias=false)") == 21
    assert parameter_count("input 1@7 net Local = LOCAL1D(1, F=3, S=2, bias=false)") == 9
    assert parameter_count("input 1@1x7 net Local = LOCAL(1, F=1x3, S=2, bias=false)") == 9
    assert parameter_count("input 1@7 net Shared = CONV1D(1, F=3, S=2, P=0, bias=false)") == 3


def test_counts_with_bias_are_one_filter_set_for_every_position():
    x = TensorType((3, 32, 32))
    layer = Local(10, (5, 5))
    assert layer.shape(x).shape == (10, 28, 28)
    count = sum(torch.Size(spec.shape).numel() for spec in layer.parameters(x).values())
    assert count == (5 * 5 * 3 + 1) * 28 * 28 * 10 == 595_840
    assert layer.macs(x) == 5 * 5 * 3 * 28 * 28 * 10
    assert layer.formulas(x) == (
        "parameters = (F*F*C1 + 1)*H2*W2*K = (5*5*3 + 1)*28*28*10 = 595,840",
        "MACs = F*F*C1*H2*W2*K = 5*5*3*28*28*10 = 588,000",
    )
    assert Local1d(3, (2,), bias=False).formulas(TensorType((4, 9))) == (
        "parameters = F*C1*L2*K = 2*4*8*3 = 192",
        "MACs = F*C1*L2*K = 2*4*8*3 = 192",
    )


@pytest.mark.parametrize(
    "layer, shape, code",
    [
        (Local(1), (3, 2, 5), "E212"),
        (Local(1), (10,), "E214"),
        (Local(1), (3, 10), "E214"),
        (Local(1, (2, 2), pad="half"), (3, 5, 5), "E222"),
        (Local1d(1), (3, 5, 5), "E214"),
        (Local1d(1), (3, 2), "E212"),
        (Local1d(1, (4,), pad="half"), (3, 8), "E222"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shape, code):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert refusal.value.code == code
    assert refusal.value.help


@pytest.mark.parametrize("target", ["triton", "torch"])
def test_a_generated_network_trains_it(target):
    """Behind and before other layers, fused with its ReLU, on both targets."""
    net = convdsl.compile_text(
        "input 2@6x6 net Tiny = LOCAL(3) - RELU - LOCAL(2, S=2) - FC(3), SOFTMAX"
    )
    torch.manual_seed(0)
    model = net.module(device="cpu", target=target)
    x, y = torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert model.state_dict()["local.weight"].shape == (4, 4, 3, 2, 3, 3)
    assert model.state_dict()["local.bias"].shape == (3, 4, 4)
