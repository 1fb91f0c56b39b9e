"""POOL, AVGPOOL and GAP against torch: kernels forward and backward, shapes, refusals."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.ir.launch import Launch, Schedule, Tail
from convdsl.ir.op import LAYERS, Layer, ShapeError, Window
from convdsl.ir.types import DType, TensorType
from convdsl.kernels.pointwise import keep
from convdsl.ops.avgpool import AvgPool
from convdsl.ops.gap import GlobalAvgPool
from convdsl.ops.maxpool import MaxPool, MaxPoolGradient
from tests.kernel_driver import empty, launch_all, node_of, run, stored
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
NAN = float("nan")


def padded(start, end=None):
    return ((start, start if end is None else end),) * 2


# (size, kernel, stride, pad, round)
GEOMETRIES = [
    ((6, 8), (2, 2), None, padded(0), "floor"),
    ((7, 5), (2, 2), None, padded(0), "floor"),
    ((7, 5), (2, 2), None, padded(0), "ceil"),
    ((1, 1), (1, 1), None, padded(0), "floor"),
    ((1, 1), (3, 3), (1, 1), padded(1), "floor"),
    ((2, 1), (3, 3), (2, 2), padded(1), "ceil"),
    ((7, 9), (3, 3), (2, 2), padded(0), "floor"),
    ((8, 7), (3, 3), (2, 2), padded(1), "ceil"),
    ((6, 6), (2, 2), (3, 3), padded(1), "ceil"),
    ((5, 6), (3, 2), (1, 3), ((1, 1), (0, 0)), "floor"),
    ((9, 4), (1, 4), (4, 1), ((0, 0), (2, 2)), "ceil"),
    ((6, 5), (3, 3), (2, 2), "same", "floor"),
    ((7, 6), (4, 4), (3, 3), "same", "ceil"),
    ((7, 6), (2, 2), (3, 3), "same", "ceil"),
    ((6, 7), (2, 3), (1, 1), "same", "floor"),
    ((6, 5), (3, 3), (2, 2), "half", "floor"),
    ((6, 5), (3, 3), (2, 2), "valid", "ceil"),
    ((6, 5), (3, 3), (2, 2), padded(0, 1), "floor"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("make", [MaxPool, AvgPool, lambda *a: AvgPool(*a, count_pad=False)])
def test_kernels_agree_with_torch(make, geometry):
    (h, w), *arguments = geometry
    layer: Layer = make(*arguments)
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(h * 31 + w))
    expected = reference(layer, x.double())
    dy = torch.randn_like(expected[0], dtype=torch.float32)
    outputs, (dx,) = forward_backward(layer, [x], dy)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert error(ours, theirs) < 1e-6
    (autograd_dx,) = autograd(layer, [x], dy)
    assert error(dx, autograd_dx) < 1e-6
    _, (reference_dx,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
    assert error(reference_dx, autograd_dx) < 1e-12


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_output_sizes_are_torchs(size, rounding):
    compared = 0
    for kernel in range(1, 5):
        for stride in range(1, 5):
            for pad in range(kernel // 2 + 1):
                layer = MaxPool((kernel, 1), (stride, 1), ((pad, pad), (0, 0)), rounding)
                if size + 2 * pad < kernel:
                    with pytest.raises(ShapeError) as refusal:
                        layer.shape(TensorType((1, size, 1)))
                    assert refusal.value.code == "E212"
                    continue
                y = F.max_pool2d(
                    torch.zeros(1, 1, size, 1),
                    (kernel, 1),
                    (stride, 1),
                    (pad, 0),
                    ceil_mode=rounding == "ceil",
                )
                assert layer.shape(TensorType((1, size, 1))).shape == y.shape[1:]
                compared += 1
    assert compared >= 8


def test_ties_go_to_the_first_and_nan_wins_as_in_torch():
    rows = [
        [1.0, 1.0, 1.0, 1.0],
        [0.0, NAN, 5.0, 2.0],
        [NAN, 1.0, NAN, 0.0],
        [-INF, -INF, -INF, -INF],
        [-INF, -INF, -INF, -3.0],
        [-0.0, 0.0, 0.0, -0.0],
        [0.0, -1e-40, 1e-40, 0.0],
    ]
    x = torch.tensor(rows).reshape(1, 7, 2, 2)
    y, index = run(MaxPool(), x)
    theirs, flat = F.max_pool2d(x, 2, return_indices=True)
    assert index.flatten().tolist() == flat.flatten().tolist() == [0, 1, 2, 0, 3, 0, 2]
    assert error(y, theirs) == 0.0


@pytest.mark.parametrize("fill", [-INF, NAN, 0.0])
def test_a_padded_window_never_picks_the_padding(fill):
    x = torch.full((1, 2, 4, 5), fill)
    layer = MaxPool((3, 3), (2, 2), padded(1))
    y, index = run(layer, x)
    theirs, theirs_index = reference(layer, x)
    assert error(y, theirs) == 0.0
    assert torch.equal(index, theirs_index)
    dy = torch.arange(1.0, 1 + y.numel()).reshape(y.shape)
    (dx,) = kernels(MaxPoolGradient(layer, TensorType((2, 4, 5))), dy, index)
    assert error(dx, autograd(layer, [x], dy)[0]) == 0.0


def test_only_the_winner_gets_the_gradient():
    x = torch.tensor([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4.0]])[None, None]
    dy = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    (y, _), (dx,) = forward_backward(MaxPool(), [x], dy)
    assert y[0, 0].tolist() == [[6, 8], [3, 4]]
    assert dx[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 0, 2], [3, 0, 0, 0], [0, 0, 0, 4]]


@pytest.mark.parametrize("kernel, dtype", [((8, 16), DType.INT8), ((8, 17), DType.INT32)])
def test_large_windows_keep_a_wide_index(kernel, dtype):
    layer = MaxPool(kernel, (1, 1))
    x = torch.randn(1, 2, 9, 18, generator=torch.Generator().manual_seed(0))
    x[..., 7, 15] = x[..., 7, 16] = 9.0  # the last taps win somewhere
    _, kind = layer.infer(TensorType((2, 9, 18)))
    assert kind.dtype is dtype
    dy = torch.randn(1, 2, *layer.shape(TensorType((2, 9, 18))).spatial)
    (_, index), (dx,) = forward_backward(layer, [x], dy)
    assert index.min() >= 0 and index.max() >= 127 - (kernel[1] - 16)
    assert error(dx, autograd(layer, [x], dy)[0]) < 1e-6


def test_the_index_is_not_stored_when_nobody_needs_it():
    layer = MaxPool((3, 3), (2, 2))
    x = torch.randn(2, 3, 7, 5)
    node = node_of(layer, [x])
    (launch,) = layer.schedule(node, Tail(node.output)).launches
    assert launch.arguments["index_ptr"] == node.outputs[1]
    without = Launch(launch.nest, {**launch.arguments, "index_ptr": None}, launch.grid)
    y = empty(node.output.type, 2, torch.float32)
    launch_all(
        Schedule((without,)),
        {node.inputs[0]: stored(x), node.output: y},
        2,
        torch.float32,
        epilogue=keep,
    )
    assert torch.equal(y.movedim(-1, 1), F.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("name", ["POOL", "AVGPOOL", "GAP"])
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_batches_and_half_precision(name, n, dtype):
    layer = LAYERS[name]()
    x = torch.randn(n, 130, 4, 6).to(dtype)
    expected = reference(layer, x.double())[0]
    dy = torch.randn_like(expected).to(dtype)
    (y, *_), (dx,) = forward_backward(layer, [x], dy)
    assert y.dtype is dtype and dx.dtype is dtype
    tolerance = 1e-6 if dtype is torch.float32 else 1e-3
    assert error(y, expected) < tolerance
    assert error(dx, autograd(layer, [x], dy)[0]) < tolerance


def test_gap_of_a_large_map():
    x = torch.rand(2, 3, 40, 30) + 100.0
    dy = torch.randn(2, 3)
    (y,), (dx,) = forward_backward(GlobalAvgPool(), [x], dy)
    assert error(y, x.double().mean((2, 3))) < 1e-5
    assert error(dx, (dy / 1200)[:, :, None, None].expand(2, 3, 40, 30)) < 1e-6
    assert GlobalAvgPool().window(TensorType((3, 40, 30))) == Window(everything=True)


@pytest.mark.parametrize(
    "layer, shape, code",
    [
        (MaxPool(), (10,), "E214"),
        (AvgPool(), (10,), "E214"),
        (GlobalAvgPool(), (10,), "E214"),
        (MaxPool((3, 3)), (1, 2, 5), "E212"),
        (AvgPool((3, 3)), (1, 5, 2), "E212"),
        (MaxPool((2, 2), None, padded(2)), (1, 6, 6), "E222"),
        (AvgPool((3, 3), None, padded(0, 2)), (1, 6, 6), "E222"),
        (MaxPool((2, 2), None, "half"), (1, 6, 6), "E222"),
        (MaxPool((3, 3), None, padded(0, 1), "ceil"), (1, 6, 6), "E222"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shape, code):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert refusal.value.code == code
    assert refusal.value.help


@pytest.mark.parametrize(
    "layer, window",
    [
        (MaxPool(), (2, 2)),
        (MaxPool((1, 2)), (1, 2)),
        (MaxPool((2, 1), (2, 1), "valid"), (2, 1)),
        (MaxPool((3, 3)), None),
        (MaxPool((2, 2), (1, 1)), None),
        (MaxPool((2, 2), None, padded(1)), None),
        (MaxPool(round="ceil"), None),
        (MaxPool(pad="same"), None),
    ],
)
def test_windows_a_matmul_kernel_can_pool(layer, window):
    assert layer.pool_window == window
