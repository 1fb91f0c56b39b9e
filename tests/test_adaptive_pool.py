"""ADAPTIVEAVGPOOL and ADAPTIVEMAXPOOL against torch, and how they lower and report."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.launch import Launch, Schedule, Tail
from convdsl.ir.op import LAYERS, ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops._adaptive_pooling import largest_window
from convdsl.ops.adaptiveavgpool import AdaptiveAvgPool
from convdsl.ops.adaptivemaxpool import AdaptiveMaxPool
from convdsl.report.costs import measure
from convdsl.report.explain import explain
from tests.kernel_driver import empty, launch_all, node_of, run, stored
from tests.op_driver import autograd, error, forward_backward, reference

INF, NAN = float("inf"), float("nan")
NAMES = ["ADAPTIVEAVGPOOL", "ADAPTIVEMAXPOOL"]


def torchs(layer, x):
    """Torch's own function, called as its users call it."""
    kind = "avg" if isinstance(layer, AdaptiveAvgPool) else "max"
    return getattr(F, f"adaptive_{kind}_pool{x.ndim - 2}d")(x, layer.size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("made", range(1, 8))
def test_every_small_size_agrees_with_torch(name, made):
    for given in range(1, 9):
        layer = LAYERS[name](made, axes=1)
        x = torch.randn(2, 3, given, generator=torch.Generator().manual_seed(given))
        leaf = x.double().requires_grad_()
        expected = torchs(layer, leaf)
        dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        (expected_dx,) = torch.autograd.grad(expected, leaf, dy.double())
        assert layer.shape(TensorType((3, given))).shape == expected.shape[1:]
        (y, *_), (dx,) = forward_backward(layer, [x], dy)
        assert error(y, expected) < 1e-6 and error(dx, expected_dx) < 1e-6
        _, (meant,) = forward_backward(layer, [x.double()], dy.double(), by=reference)
        assert error(meant, expected_dx) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "given, made",
    [((14, 13), (4, 4)), ((5, 2), (2, 5)), ((3, 1), (7, 2)), ((1, 1), (3, 2)), ((25, 11), (2, 2))],
)
def test_maps_agree_with_torch(name, given, made):
    layer = LAYERS[name](made)
    x = torch.randn(2, 3, *given, generator=torch.Generator().manual_seed(0))
    expected = torchs(layer, x.double())
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (y, *_), (dx,) = forward_backward(layer, [x], dy)
    assert error(y, expected) < 1e-6
    assert error(dx, autograd(layer, [x], dy)[0]) < 1e-6


def test_the_largest_window_is_as_large_as_the_largest_window():
    for size in range(1, 30):
        for count in range(1, 30):
            windows = [
                -(-(i + 1) * size // count) - i * size // count for i in range(count)
            ]  # -(-a // b) rounds up
            assert largest_window(size, count) == max(windows), (size, count)


def test_ties_go_to_the_first_and_nan_wins_as_in_torch():
    rows = [
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [0.0, NAN, 5.0, 2.0, NAN],
        [NAN, 1.0, NAN, 0.0, 3.0],
        [-INF, -INF, -INF, -INF, -INF],
        [-0.0, 0.0, 0.0, -0.0, -3.0],
    ]
    x = torch.tensor(rows).reshape(1, 1, 5, 5)
    y, index = run(AdaptiveMaxPool(3), x)
    theirs, place = F.adaptive_max_pool2d(x, 3, return_indices=True)
    assert error(y, theirs) == 0.0
    assert index.flatten().tolist() == place.flatten().tolist()
    dy = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    _, (dx,) = forward_backward(AdaptiveMaxPool(3), [x], dy)
    assert error(dx, autograd(AdaptiveMaxPool(3), [x], dy)[0]) == 0.0


def test_a_mean_is_nan_only_where_its_window_has_one():
    x = torch.zeros(1, 1, 1, 5)
    x[..., 2], x[..., 4] = NAN, INF
    (y,), (dx,) = forward_backward(AdaptiveAvgPool((1, 4)), [x], torch.ones(1, 1, 1, 4))
    assert error(y, F.adaptive_avg_pool2d(x, (1, 4))) == 0.0
    assert dx.flatten().tolist() == [0.5, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_batches_and_half_precision(name, n, dtype):
    layer = LAYERS[name]((2, 4))
    x = torch.randn(n, 5, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torchs(layer, x.double())
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (y, *_), (dx,) = forward_backward(layer, [x], dy)
    assert y.dtype is dx.dtype is dtype
    tolerance = 1e-6 if dtype is torch.float32 else 1e-3
    assert error(y, expected) < tolerance
    assert error(dx, autograd(layer, [x], dy)[0]) < tolerance


def test_the_index_is_not_stored_when_nobody_needs_it():
    layer, x = AdaptiveMaxPool(3), torch.randn(2, 3, 7, 5)
    node = node_of(layer, [x])
    (launch,) = layer.schedule(node, Tail(node.output)).launches
    assert launch.arguments["index_ptr"] == node.outputs[1]
    without = Launch(launch.nest, {**launch.arguments, "index_ptr": None}, launch.grid)
    y = empty(node.output.type, 2, torch.float32)
    tensors = {node.inputs[0]: stored(x), node.output: y}
    launch_all(Schedule((without,)), tensors, 2, torch.float32)
    assert torch.equal(y.movedim(-1, 1), F.adaptive_max_pool2d(x, 3))


@pytest.mark.parametrize(
    "name, plain", [("ADAPTIVEAVGPOOL", "AVGPOOL"), ("ADAPTIVEMAXPOOL", "POOL")]
)
@pytest.mark.parametrize(
    "given, size, kernel",
    [("3@8x6", "4x2", (2, 3)), ("3@8x6", "1", (8, 6)), ("3@8", "4", 2), ("3@9", "1", 9)],
)
def test_a_size_that_divides_is_plain_pooling(name, plain, given, size, kernel):
    (node,) = compile_text(f"input {given}\nnet A = {name}({size})\n").graph.nodes
    assert isinstance(node.op, LAYERS[plain]) and node.op.kernel == kernel
    assert node.origin.text == f"{name}({size})" and node.origin.path == name.lower()
    x = torch.randn(2, *node.inputs[0].type.shape, generator=torch.Generator().manual_seed(0))
    layer = LAYERS[name](*node.output.type.spatial[:1], axes=node.op.axes)
    if "x" not in size:
        assert error(reference(node.op, x)[0], torchs(layer, x)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_size_that_is_there_is_left_alone(name):
    for shape, size in (("3@5x7", "5x7"), ("3@7", "7"), ("3@7x7", "7")):
        graph = compile_text(f"input {shape}\nnet A = {name}({size})\n").graph
        assert graph.nodes[0].op.is_identity(training=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_window_is_a_bound(name):
    layer = LAYERS[name]((4, 3))
    window = layer.window(TensorType((6, 14, 7)))
    assert (window.kernel, window.stride) == ((4, 3), (4, 3))
    assert window.padding == ((0, 0), (0, 0)) and window.uneven
    graph = compile_text(f"input 6@14x7\nnet A = {name}(4x3) - CONV(2, P=0)\n").graph
    first, second = measure(graph).rows
    assert first.field.size == (4, 3)
    assert second.field.size == (12, 9)  # exactly 11 or 7, and 7
    text = explain(first, graph.notation)
    assert "W2 = 3, window i is floor(i*7/3) to ceil((i+1)*7/3) - 1: at most 3 of W1 = 7" in text


def test_nothing_is_dropped_so_nothing_is_remarked_upon():
    network = compile_text("input 6@14x13\nnet A = ADAPTIVEAVGPOOL(4) - FC(2)\n", strict=True)
    assert not network.warnings


@pytest.mark.parametrize("name", NAMES)
def test_both_targets_take_the_same_step(name):
    text = (
        f"input 3@7x9\nnet A = CONV(4) - {name}(4x5) - RELU - {name}(3) - TANH - FC(3), SOFTMAX\n"
    )
    x = torch.randn(4, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1, 1])
    network = compile_text(text)
    models = [network.module(device="cpu", target=target) for target in ("triton", "torch")]
    models[1].load_state_dict(models[0].state_dict())
    losses = [model.train()(x, labels) for model in models]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    for loss in losses:
        loss.backward()
    for (key, mine), theirs in zip(
        models[0].named_parameters(), models[1].parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "size, shape, code", [(3, (10,), "E214"), ((3, 3), (2, 10), "E204"), ((3, 3), (2,), "E214")]
)
def test_what_does_not_fit_is_refused(name, size, shape, code):
    with pytest.raises(ShapeError) as refusal:
        LAYERS[name](size).shape(TensorType(shape))
    assert refusal.value.code == code and refusal.value.help
