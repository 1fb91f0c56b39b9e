"""DWCONV and SEPCONV: figures, meaning against torch, kernels against float64 autograd."""

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from convdsl.compiler import compile_text
from convdsl.ir.group import Group
from convdsl.ir.launch import Tail
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops._depthwise_gradients import (
    DepthwiseGradients,
    DepthwiseGradInput,
    DepthwiseGradWeight,
)
from convdsl.ops.conv import Conv
from convdsl.ops.depthwise import DwConv
from convdsl.ops.sepconv import SepConv
from tests.conv_driver import (
    TOLERANCE,
    assert_close,
    assert_targets_agree,
    by_kernels,
    by_meaning,
    operands,
    oracle,
)
from tests.kernel_driver import node_of, run
from tests.test_random_programs import check, numbers

ORDER = (2, 3, 1, 0)

# layer, input map, batch
GRID = [
    (DwConv(), (3, 6, 5), 2),
    (DwConv((3, 2), (2, 2), "same"), (4, 9, 7), 3),
    (DwConv((5, 5), (1, 2), multiplier=3), (2, 7, 8), 1),
    (DwConv((3, 3), (1, 1), "full", (2, 2), bias=False), (3, 9, 9), 1),
    (DwConv(stride=(3, 3)), (70, 3, 2), 1),  # channels beyond one tile
    (DwConv((2, 2), (4, 4), "same"), (1, 9, 9), 2),  # pixels no window reaches
    (DwConv((3, 3), (2, 2), "same", (2, 2)), (2, 7, 8), 1),  # stride and dilation share 2
    (DwConv((1, 1)), (1, 1, 1), 1),
    (DwConv((1, 5), pad=((0, 0), (3, 1)), bias=False), (2, 4, 2), 1),  # F > W
    (DwConv((9, 9)), (65, 4, 4), 1),  # taps beyond one tile of the weight gradient
    (DwConv((7, 1), multiplier=2), (33, 6, 3), 2),
    (DwConv(), (2, 16, 20), 2),  # pixels beyond one tile
    (DwConv(), (3, 4, 4), 0),
]
NAMES = [f"{layer.kernel}s{layer.stride}m{layer.multiplier}on{x}n{n}" for layer, x, n in GRID]


def of(source):
    """The layer on its own with ``groups`` at the number of channels, for comparison."""
    layer, channels = source
    return Conv(
        channels * layer.multiplier,
        layer.kernel,
        layer.stride,
        layer.pad,
        layer.dilation,
        channels,
        layer.bias,
    )


def test_figures():
    x = TensorType((32, 112, 112))
    layer = DwConv()
    assert layer.shape(x) == x
    shapes = {name: spec.shape for name, spec in layer.parameters(x).items()}
    assert shapes == {"weight": (32, 1, 3, 3), "bias": (32,)}
    assert layer.macs(x) == 9 * 32 * 112 * 112
    assert layer.formulas(x) == (
        "parameters = (F*F + 1)*C1 = (3*3 + 1)*32 = 320",
        "MACs = F*F * H2*W2*C1 = 3*3 * 112*112*32 = 3,612,672",
    )
    double = DwConv(multiplier=2, bias=False)
    assert double.shape(x).shape == (64, 112, 112)
    assert double.parameters(x)["weight"].shape == (64, 1, 3, 3)
    assert double.formulas(x)[0] == "parameters = F*F*C1*M = 3*3*64 = 576"


def test_weight_lies_with_neighbouring_filters_side_by_side():
    assert DwConv().parameters(TensorType((4, 5, 5)))["weight"].permute == ORDER


@pytest.mark.parametrize(
    ("layer", "shape", "code"),
    [
        (DwConv((7, 7), pad="valid"), (3, 5, 5), "E212"),
        (DwConv((2, 2)), (3, 5, 5), "E222"),
        (DwConv(), (12,), "E214"),
        (DwConv(), (3, 12), "E214"),
    ],
)
def test_misfits(layer, shape, code):
    with pytest.raises(ShapeError) as caught:
        layer.shape(TensorType(shape))
    assert caught.value.code == code


@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_meaning_is_a_convolution_with_a_group_per_channel(layer, shape, n):
    x, parameters, dy = operands(layer, shape, n, torch.float64)
    y, gradients = oracle(of((layer, shape[0])), x, parameters, dy)
    mine, found = by_meaning(layer, x.double(), [p.double() for p in parameters], dy.double())
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


#: both gradients are one kernel, without a bias
AT_ONCE = [
    (layer, x, n)
    for layer, x, n in GRID
    if DepthwiseGradients(layer.geometry(TensorType(x))).is_possible
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), AT_ONCE)
def test_both_gradients_at_once(layer, shape, n, dtype):
    x, parameters, dy = operands(layer, shape, n, dtype)
    _, (dx, dw, *_) = oracle(layer, x, parameters, dy)
    op = DepthwiseGradients(layer.geometry(TensorType(shape)))
    weight = parameters[:1]
    found = run(op, x, dy, parameters=weight, orders=[ORDER], made=[None, ORDER])
    again = run(op, x, dy, parameters=weight, orders=[ORDER], made=[None, ORDER])
    assert [t.dtype for t in found] == [dtype, torch.float32]
    for one, other, expected in zip(found, again, (dx, dw), strict=True):
        assert torch.equal(one, other)
        assert_close(one, expected, TOLERANCE[dtype])


def test_both_gradients_at_once_keep_padding_out_of_the_sums():
    """x is not finite where dy has no pixel, and dy is not where a window sees the padding."""
    layer = DwConv(bias=False)
    x, parameters, dy = operands(layer, (2, 5, 4), 1, torch.float32)
    x[0, 0, 0, 0], dy[0, 1, 0, 0] = float("inf"), float("nan")
    op = DepthwiseGradients(layer.geometry(TensorType((2, 5, 4))))
    dx, dw = run(op, x, dy, parameters=parameters, orders=[ORDER], made=[None, ORDER])
    _, (expected, _) = oracle(layer, x, parameters, dy)
    assert torch.equal(dx.isnan(), expected.isnan())
    # x's corner is seen by the taps below and right of the middle's, the NaN's of dy by those too
    assert dw[0, 0].isfinite().tolist() == [[False] * 2 + [True]] * 2 + [[True] * 3]
    assert dw[1, 0].isfinite().tolist() == [[True] * 3] + [[True, False, False]] * 2


def gradients_at_once(text):
    graph = compile_text(text).fused
    groups = [n.op for n in graph.backward if isinstance(n.op, Group)]
    ops = [n.op for n in graph.backward] + [g.anchor.op for g in groups]
    return sum(isinstance(op, DepthwiseGradients) for op in ops)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("input 5@7x6 net N = CONV(6) - BN - DWCONV(bias=false) - BN", 1),
        ("input 5@7x6 net N = CONV(6) - BN - (SEPCONV(7, bias=false) - BN - RELU)*2", 2),
        # only the input asks for its gradient
        ("input 6@7x6 net N = DWCONV(bias=false) - BN", 0),
        # the bias counts all of dy; filters share a channel; more taps than registers
        ("input 5@7x6 net N = CONV(6) - BN - DWCONV - BN", 0),
        ("input 5@7x6 net N = CONV(6) - BN - DWCONV(multiplier=2, bias=false) - BN", 0),
        ("input 5@7x6 net N = CONV(6) - BN - DWCONV(5, bias=false) - BN", 0),
        # a whole step may be one kernel, if maps are small
        ("input 5@7x6 net N = CONV(6) - DWCONV(bias=false) - FC(2), SOFTMAX", 0),
        ("input 5@96x96 net N = CONV(6) - DWCONV(bias=false) - FC(2), SOFTMAX", 1),
        # two layers of one gradient
        ("input 5@7x6 net N = CONV(6) - BN - ADD{ DWCONV(bias=false) | DWCONV(bias=false) }", 2),
    ],
)
def test_where_both_gradients_are_one_kernel(text, count):
    assert gradients_at_once(text) == count


def test_networks_with_both_gradients_at_once():
    text = (
        "input 5@7x6 net N = CONV(9, bias=false) - BN - RELU - DWCONV(S=2, bias=false) - BN"
        " - ADD{ DWCONV(bias=false) - BN | DWCONV(3x2, P=same, bias=false) | ID } - RELU"
    )
    assert gradients_at_once(text) == 3
    net = compile_text(text)
    check(net, numbers(net.graph, batch=3, seed=1))


@pytest.mark.parametrize(("layer", "shape", "n"), GRID[:4], ids=NAMES[:4])
def test_grouped_convolution_gives_the_same(layer, shape, n):
    x, parameters, dy = operands(layer, shape, n, torch.float32)
    y, gradients = by_kernels(of((layer, shape[0])), x, parameters, dy)
    mine, found = by_kernels(layer, x, parameters, dy)
    for actual, expected in zip((mine, *found), (y, *gradients), strict=True):
        assert_close(actual, expected.double(), 1e-5)


def test_nan_and_infinity_go_where_their_windows_are():
    layer = DwConv(stride=(2, 2))
    x, parameters, dy = operands(layer, (3, 7, 6), 1, torch.float32)
    x[0, 1, 3, 3], x[0, 2, 0, 0] = float("nan"), float("inf")
    dy[0, 2, 1, 1] = float("nan")
    y, _ = oracle(layer, x, parameters, dy)
    (mine,) = run(layer, x, parameters=parameters, orders=[ORDER, None])
    assert 0 < y.isnan().sum() < y.numel()
    assert torch.equal(mine.isnan(), y.isnan())
    assert torch.equal(mine.isinf(), y.isinf())
    _, (dx, dw, db) = by_kernels(layer, x.nan_to_num(posinf=1.0), parameters, dy)
    _, gradients = oracle(layer, x.nan_to_num(posinf=1.0), parameters, dy)
    assert 0 < dx.isnan().sum() < dx.numel()
    assert torch.equal(dx.isnan(), gradients[0].isnan())
    assert dw.isnan().flatten(1).all(1).tolist() == [False, False, True]
    assert not dw[:2].isnan().any()
    assert db.isnan().tolist() == [False, False, True]


def test_weight_gradient_is_split_and_bit_equal_in_two_runs():
    layer = DwConv()
    x, _, dy = operands(layer, (2, 20, 20), 2, torch.float32)
    geometry = layer.geometry(TensorType((2, 20, 20)))
    op = DepthwiseGradWeight(geometry, True)
    node = node_of(op, (x, dy))
    (partial,) = op.schedule(node, Tail(node.output)).scratch
    split, size = partial.type.shape
    assert split > 1
    assert split & (split - 1) == 0
    assert size == 2 * (9 + 1)
    for first, second in zip(run(op, x, dy), run(op, x, dy), strict=True):
        assert torch.equal(first, second)


@triton.jit
def scaled_residual(acc, offsets, column, mask, aux, seed):
    other = tl.load(aux[0] + offsets, mask=mask, other=0.0)
    return acc * tl.load(seed) + other


def test_epilogues_see_offsets_of_the_whole_tensor():
    layer = DwConv(stride=(1, 2), multiplier=2)
    x, parameters, dy = operands(layer, (3, 6, 5), 2, torch.float32)
    orders = [ORDER, None]
    (y,) = run(layer, x, parameters=parameters, orders=orders)
    (found,) = run(
        layer, x, parameters=parameters, orders=orders, epilogue=scaled_residual, aux=(dy,), seed=3
    )
    torch.testing.assert_close(found, y * 3 + dy)
    op = DepthwiseGradInput(layer.geometry(TensorType((3, 6, 5))))
    weight = parameters[:1]
    (dx,) = run(op, dy, parameters=weight, orders=[ORDER])
    (found,) = run(
        op, dy, parameters=weight, orders=[ORDER], epilogue=scaled_residual, aux=(x,), seed=2
    )
    torch.testing.assert_close(found, dx * 2 + x)


def test_separable_is_depthwise_then_pointwise():
    """Xception's figures: 3x3 over 128 channels to 256 takes 33,920 weights instead of 294,912."""
    x = TensorType((128, 19, 19))
    layer = SepConv(256, bias=False)
    assert layer.shape(x).shape == (256, 19, 19)
    shapes = {name: spec.shape for name, spec in layer.parameters(x).items()}
    assert shapes == {
        "depthwise.weight": (128, 1, 3, 3),
        "pointwise.weight": (256, 128, 1, 1),
    }
    assert sum(torch.Size(s).numel() for s in shapes.values()) == 33_920
    assert torch.Size(Conv(256).parameters(x)["weight"].shape).numel() == 294_912
    assert list(SepConv(4).parameters(x)) == [
        "depthwise.weight",
        "pointwise.weight",
        "pointwise.bias",
    ]


def test_separable_in_a_network_has_the_keys_and_counts_of_its_parts():
    network = compile_text("input 3@9x8\nnet N = SEPCONV(4, F=3, S=2, init=he_normal) as sep\n")
    found = {p.path: p.value.type.shape for p in network.graph.parameters}
    assert found == {
        "sep.depthwise.weight": (3, 1, 3, 3),
        "sep.pointwise.weight": (4, 3, 1, 1),
        "sep.pointwise.bias": (4,),
    }
    assert network.graph.outputs[0].value.type.shape == (4, 5, 4)
    starts = {p.path: p.initializer.function for p in network.graph.parameters}
    assert starts["sep.depthwise.weight"] == starts["sep.pointwise.weight"] == "normal_"
    assert starts["sep.pointwise.bias"] == "zeros_"


def test_separable_meaning_and_misfits():
    layer = SepConv(4, (3, 3), (2, 2))
    x, (depthwise, pointwise, bias), _ = operands(layer, (3, 7, 6), 2, torch.float64)
    (text,) = layer.reference("x", "d", "p", "b")
    scope = {"F": F, "x": x, "d": depthwise, "p": pointwise, "b": bias.to(x.dtype)}
    between = F.conv2d(x, depthwise, stride=2, padding=1, groups=3)
    expected = F.conv2d(between, pointwise, scope["b"])
    torch.testing.assert_close(eval(text, scope), expected)
    with pytest.raises(ShapeError) as caught:
        layer.shape(TensorType((3, 9)))
    assert caught.value.code == "E214"


@pytest.mark.parametrize(
    "chain",
    [
        "DWCONV - RELU - CONV(4, F=1) - POOL",
        "SEPCONV(4, S=2) - SIGMOID - SEPCONV(2, bias=false)",
        "DWCONV(5, multiplier=2) - ADD{ DWCONV | ID } - FC(3)",
    ],
)
def test_networks(chain):
    assert_targets_agree(f"input 3@7x6\nnet N = {chain}\n")


def test_shared_separable_layer_adds_its_gradients_up():
    program = "module twice = SEPCONV(3) - TANH\ninput 3@5x4\nnet N = twice - twice\n"
    assert_targets_agree(program)
    assert len(compile_text(program).graph.parameters) == 3
