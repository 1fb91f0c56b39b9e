"""CONV: figures of the lectures, meaning against torch, kernels against float64 autograd."""

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from convdsl.compiler import compile_text
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Value
from convdsl.ir.launch import Tail
from convdsl.ir.op import ShapeError
from convdsl.ir.types import DType, TensorType
from convdsl.ops._bias_gradient import BiasGradient
from convdsl.ops._conv_gradients import ConvGradInput, ConvGradWeight
from convdsl.ops.conv import Conv
from tests import conv_driver
from tests.conv_driver import assert_close, assert_targets_agree, oracle
from tests.empty_cache import empty_cache
from tests.kernel_driver import meaning, run

# layer, input map, batch
GRID = [
    (Conv(4), (3, 8, 8), 2),
    (Conv(6, (3, 2), (2, 2), "same", groups=2), (4, 9, 7), 3),
    (Conv(3, stride=(1, 2), pad="valid", dilation=(2, 2), bias=False), (2, 11, 9), 1),
    (Conv(5, stride=(3, 4), pad="full", dilation=(2, 3)), (2, 11, 9), 1),
    (Conv(5, (1, 1)), (17, 3, 5), 2),
    (Conv(5, (1, 1), (2, 2)), (3, 5, 5), 2),
    (Conv(4, (1, 1), (3, 3)), (1, 1, 1), 1),
    (Conv(4, (5, 5), pad=((3, 1), (2, 2))), (2, 3, 2), 1),  # F > W
    (Conv(4, (4, 4), (4, 4), "valid"), (2, 9, 11), 1),
    (Conv(4, (2, 2), (4, 4), "same"), (1, 9, 9), 2),  # pixels no window reaches
    (Conv(3, (3, 3), (2, 2), "same", (2, 2)), (2, 7, 8), 1),  # stride and dilation share 2
    (Conv(3, (2, 3), (4, 2), "half", (2, 4)), (2, 9, 8), 1),
    (Conv(2, (5, 1), (1, 2)), (2, 7, 6), 1),
    (Conv(20, (3, 3), groups=1), (32, 4, 4), 1),  # a contraction block inside one tap
    (Conv(4, (3, 1)), (64, 4, 3), 1),  # a tile of the weight gradient inside one tap
    (Conv(40, (1, 1), bias=False), (16, 3, 3), 1),
    (Conv(6, (3, 3), groups=3), (6, 5, 5), 3),
    (Conv(3, (2, 2), (1, 1), "full"), (2, 9, 9), 3),  # rows beyond one tile
    (Conv(4, (3, 3), (2, 2)), (3, 5, 5), 0),
]
NAMES = [f"{layer.filters}x{layer.kernel}s{layer.stride}on{x}n{n}" for layer, x, n in GRID]


def operands(layer, shape, n, dtype):
    return layer.geometry(TensorType(shape)), *conv_driver.operands(layer, shape, n, dtype)


def by_hand(layer, x, weight, bias=None):
    """The formula itself, tap by tap, on an explicitly padded input."""
    geometry = layer.geometry(TensorType(tuple(x.shape[1:])))
    (top, bottom), (left, right) = geometry.window.padding
    padded = F.pad(x, (left, right, top, bottom))
    channels, filters = geometry.group_channels, geometry.group_filters
    y = torch.zeros(x.shape[0], *geometry.y.shape, dtype=x.dtype)
    for k in range(layer.filters):
        group = k // filters * channels
        for r in range(layer.kernel[0]):
            for s in range(layer.kernel[1]):
                h, w = r * layer.dilation[0], s * layer.dilation[1]
                taken = padded[:, group : group + channels, h :: layer.stride[0]][
                    :, :, : geometry.y.height, w :: layer.stride[1]
                ][:, :, :, : geometry.y.width]
                y[:, k] += (taken * weight[k, :, r, s, None, None]).sum(1)
        if bias is not None:
            y[:, k] += bias[k]
    return y


def test_figures():
    lenet1, lenet2 = Conv(6, (5, 5), pad="valid"), Conv(16, (5, 5), pad="valid")
    x = TensorType((1, 32, 32))
    assert lenet1.shape(x).shape == (6, 28, 28)
    assert lenet1.macs(x) + lenet2.macs(TensorType((6, 14, 14))) == 117_600 + 240_000
    assert count(lenet1, x) == 156
    assert count(lenet2, TensorType((6, 14, 14))) == 2_416
    vgg = TensorType((3, 224, 224))
    assert Conv(64).shape(vgg).shape == (64, 224, 224)
    assert (count(Conv(64), vgg), Conv(64).macs(vgg)) == (1_792, 86_704_128)
    alexnet = Conv(96, (11, 11), (4, 4), ((0, 0), (0, 0)))
    x = TensorType((3, 227, 227))
    assert alexnet.shape(x).shape == (96, 55, 55)
    assert alexnet.parameters(x)["weight"].shape == (96, 3, 11, 11)
    assert count(Conv(96, (11, 11), (4, 4), "valid", bias=False), x) == 34_848
    volume = TensorType((3, 32, 32))
    ten = Conv(10, (5, 5), pad=((2, 2), (2, 2)))
    assert (ten.shape(volume).shape, count(ten, volume)) == ((10, 32, 32), 760)


def count(layer, x):
    return sum(torch.Size(spec.shape).numel() for spec in layer.parameters(x).values())


@pytest.mark.parametrize(("stride", "size"), [(1, 5), (2, 3), (3, 2)])
def test_seven_by_seven(stride, size):
    layer = Conv(1, stride=(stride, stride), pad="valid")
    assert layer.shape(TensorType((1, 7, 7))).spatial == (size, size)


def test_parameters_start_and_storage():
    specs = Conv(8, groups=2).parameters(TensorType((4, 5, 5)))
    assert list(specs) == ["weight", "bias"]
    assert specs["weight"].permute == (0, 2, 3, 1)
    bound = (6 / (2 * 9 + 4 * 9)) ** 0.5
    assert specs["weight"].initializer.arguments == pytest.approx((-bound, bound))
    assert list(Conv(8, bias=False).parameters(TensorType((4, 5, 5)))) == ["weight"]


@pytest.mark.parametrize(
    ("layer", "shape", "code"),
    [
        (Conv(4, groups=3), (3, 5, 5), "E213"),
        (Conv(3, groups=3), (4, 5, 5), "E213"),
        (Conv(4, (7, 7), pad="valid"), (3, 5, 5), "E212"),
        (Conv(4, (2, 2)), (3, 5, 5), "E222"),
        (Conv(4), (12,), "E214"),
    ],
)
def test_misfits(layer, shape, code):
    with pytest.raises(ShapeError) as caught:
        layer.shape(TensorType(shape))
    assert caught.value.code == code
    assert caught.value.message.format(**caught.value.values)


@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_meaning(layer, shape, n):
    geometry, x, parameters, dy = operands(layer, shape, n, torch.float64)
    y, gradients = oracle(layer, x, parameters, dy)
    assert_close(y, by_hand(layer, x.double(), *(p.double() for p in parameters)), 1e-12)
    (dx,) = meaning(ConvGradInput(geometry), dy, parameters[0])
    to_weight = meaning(ConvGradWeight(geometry, layer.bias), x, dy)
    for actual, expected in zip((dx, *to_weight), gradients, strict=True):
        assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_kernels(layer, shape, n, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    geometry, x, parameters, dy = operands(layer, shape, n, dtype)
    y, gradients = oracle(layer, x, parameters, dy)
    assert_close(run(layer, x, parameters=parameters)[0], y, tolerance)
    (dx,) = run(ConvGradInput(geometry), dy, parameters=parameters[:1])
    to_weight = run(ConvGradWeight(geometry, layer.bias), x, dy)
    assert dx.dtype == dtype
    assert {t.dtype for t in to_weight} == {torch.float32}
    for actual, expected in zip((dx, *to_weight), gradients, strict=True):
        assert_close(actual, expected, tolerance)


def test_gradient_to_input_is_the_full_convolution_with_turned_filters():
    x, w, dy = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    geometry = Conv(1, (2, 2), pad="valid").geometry(TensorType((1, 3, 3)))
    (dx,) = run(ConvGradInput(geometry), dy, parameters=(w,))
    torch.testing.assert_close(dx, F.conv2d(dy, w.flip(2, 3), padding=1))
    dw, db = run(ConvGradWeight(geometry, True), x, dy)
    torch.testing.assert_close(dw, F.conv2d(x, dy))
    torch.testing.assert_close(db, dy.sum().reshape(1))


def test_gradient_nodes():
    build = Builder()
    x = build.value("x", TensorType((3, 8, 8)))
    weight = build.value("weight", TensorType((4, 3, 3, 3), batched=False))
    bias = build.value("bias", TensorType((4,), batched=False))
    layer = Conv(4)
    (y,) = build.add(layer, x, parameters=(weight, bias), names=("y",))
    dy = build.value("d_y", y.type)
    found = layer.gradient(build.nodes[0], dy, build)
    assert {v.name: g.name for v, g in found.items()} == {
        "x": "d_x",
        "weight": "d_weight",
        "bias": "d_bias",
    }
    for value, gradient in found.items():
        assert gradient.type.shape == value.type.shape
    assert found[weight].type == TensorType((4, 3, 3, 3), DType.FLOAT32, batched=False)
    assert [node.inputs for node in build.nodes[1:]] == [(dy,), (x, dy)]


def test_nan_goes_where_its_windows_are():
    layer = Conv(4, stride=(2, 2))
    geometry, x, parameters, dy = operands(layer, (3, 7, 6), 1, torch.float32)
    x[0, 1, 3, 3] = float("nan")
    dy[0, 2, 1, 1] = float("nan")
    y, gradients = oracle(layer, x, parameters, dy)
    actual = run(layer, x, parameters=parameters)[0]
    assert 0 < y.isnan().sum() < y.numel()
    assert torch.equal(actual.isnan(), y.isnan())
    (dx,) = run(ConvGradInput(geometry), dy, parameters=parameters[:1])
    assert 0 < dx.isnan().sum() < dx.numel()
    assert torch.equal(dx.isnan(), gradients[0].isnan())
    dw, db = run(ConvGradWeight(geometry, True), x.nan_to_num(), dy)
    assert dw[2].isnan().all()
    assert db.isnan().tolist() == [False, False, True, False]
    assert not dw[[0, 1, 3]].isnan().any()


POOLED = [
    (Conv(5), (2, 8, 6), 2),
    (Conv(3, (2, 2), (1, 1), "valid"), (2, 8, 10), 1),  # 7 x 9: the last row and column drop out
    (Conv(20, (3, 3)), (1, 12, 14), 1),  # rows beyond one tile
    (Conv(4, groups=2), (4, 4, 4), 0),
]


def pooled_by_torch(y, pool):
    best, flat = F.max_pool2d(y, pool, return_indices=True)
    width = y.shape[-1]
    return best, (flat // width % pool[0] * pool[1] + flat % width % pool[1]).to(torch.int8)


@pytest.mark.parametrize("pool", [(1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), POOLED)
def test_fused_pooling(layer, shape, n, dtype, pool):
    """Of whole numbers: their sums are equal to the bit in whatever order rows lie and BLAS adds.

    Some windows hold equal ones.
    """
    _, x, parameters, _ = operands(layer, shape, n, dtype)
    x, parameters = (2 * x).round(), [(4 * p).round() for p in parameters]
    (y,) = run(layer, x, parameters=parameters)
    best, index = run(layer, x, parameters=parameters, pool=pool)
    if n == 0:
        assert best.shape == index.shape
        assert best.shape[0] == 0
        return
    expected, where = pooled_by_torch(y, pool)
    assert torch.equal(best, expected)
    assert torch.equal(index, where)


@pytest.mark.parametrize("pool", [(1, 2), (2, 1), (2, 2)])
def test_fused_pooling_takes_the_first_of_equals_and_nan(pool):
    layer = Conv(3, (1, 1), bias=False)
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-1, 2, (2, 1, 8, 8), generator=generator).float()
    x[0, 0, [2, 3, 4, 7, 6], [3, 2, 4, 7, 6]] = float("nan")  # every place, and two in a window
    x[1, 0, 4:6, 4:6] = float("-inf")
    weight = torch.ones(3, 1, 1, 1)
    best, index = run(layer, x, parameters=(weight,), pool=pool)
    expected, where = pooled_by_torch(x.expand(-1, 3, -1, -1), pool)
    assert torch.equal(best.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    assert torch.equal(index, where)


@triton.jit
def scaled_residual(acc, offsets, column, mask, aux, seed):
    other = tl.load(aux[0] + offsets, mask=mask, other=0.0)
    return acc * tl.load(seed) + other


@pytest.mark.parametrize("pool", [None, (2, 2)])
def test_epilogue_of_forward_sees_offsets_of_the_whole_output(pool):
    layer = Conv(5, groups=1)
    _, x, parameters, dy = operands(layer, (3, 6, 5), 2, torch.float32)
    (y,) = run(layer, x, parameters=parameters)
    found = run(
        layer,
        x,
        parameters=parameters,
        pool=pool,
        epilogue=scaled_residual,
        aux=(dy,),
        seed=3,
    )[0]
    expected = y * 3 + dy
    torch.testing.assert_close(found, F.max_pool2d(expected, pool) if pool else expected)


def test_epilogue_of_gradient_to_input():
    layer = Conv(4, stride=(2, 3), groups=2)
    geometry, x, parameters, dy = operands(layer, (4, 7, 8), 2, torch.float32)
    op = ConvGradInput(geometry)
    (plain,) = run(op, dy, parameters=parameters[:1])
    (found,) = run(op, dy, parameters=parameters[:1], epilogue=scaled_residual, aux=(x,), seed=2)
    torch.testing.assert_close(found, plain * 2 + x)


@triton.jit
def sum_of_four(acc, offsets, column, mask, aux, seed):
    for i in tl.static_range(4):
        acc += tl.load(aux[i] + offsets, mask=mask, other=0.0)
    return acc * (column % 120 + 1)


def test_epilogue_of_many_tensors_in_two_halves():
    layer = Conv(2)
    geometry, x, parameters, dy = operands(layer, (120, 3, 4), 2, torch.float32)
    op = ConvGradInput(geometry)
    (plain,) = run(op, dy, parameters=parameters[:1])
    others = (x, 2 * x, x + 1, -x)
    (found,) = run(op, dy, parameters=parameters[:1], epilogue=sum_of_four, aux=others)
    channel = torch.arange(1.0, 121.0).reshape(120, 1, 1)
    torch.testing.assert_close(found, (plain + 3 * x + 1) * channel, rtol=1e-5, atol=1e-3)


def test_gradient_names_its_scratch_after_the_weight():
    geometry = Conv(4).geometry(TensorType((3, 8, 8)))
    build = Builder()
    x, dy = build.value("x", geometry.x), build.value("dy", geometry.y)
    build.add(ConvGradWeight(geometry, True), x, dy, names=("d_w", "d_b"))
    (node,) = build.nodes
    (scratch,) = node.op.schedule(node, Tail(node.output)).scratch
    assert isinstance(scratch, Value)
    split, size = scratch.type.shape
    assert size == 4 * 3 * 9 + 4
    assert split & (split - 1) == 0


def test_bias_per_position_is_a_parameter_of_the_shape_of_the_map():
    """AlphaGo's last layer: one 1x1 filter over 19x19, "a different bias for each position"."""
    network = compile_text("input 192@19x19\nnet N = CONV(1, F=1, bias=position)\n")
    shapes = {p.path: p.value.type.shape for p in network.graph.parameters}
    assert shapes == {"conv.weight": (1, 192, 1, 1), "conv.bias": (1, 19, 19)}
    start = {p.path: p.initializer.function for p in network.graph.parameters}
    assert start["conv.bias"] == "zeros_"


def test_bias_per_position_takes_a_start_of_its_own():
    text = "CONV(2, bias=position, bias_init=0.5, init=zeros)"
    network = compile_text(f"input 3@5x4\nnet N = {text}\n")
    with empty_cache():
        module = network.module(device="cpu", target="torch")
    assert torch.equal(module(torch.ones(1, 3, 5, 4)), torch.full((1, 2, 5, 4), 0.5))


@pytest.mark.parametrize(
    "chain",
    [
        "CONV(3, bias=position)",
        "CONV(3, bias=position, P=valid) - RELU - POOL",
        "CONV(2, S=2, bias=position) - CONV(2, bias=position) - FLATTEN",
    ],
)
def test_networks_with_a_bias_per_position(chain):
    assert_targets_agree(f"input 2@7x6\nnet N = {chain}\n", batch=3)


def test_bias_per_position_fuses_behind_the_convolution():
    network = compile_text("input 2@6x6\nnet N = CONV(3, bias=position) - RELU\n")
    assert [node.op.title for node in network.inference.nodes] == ["conv_position_bias_relu"]


@pytest.mark.parametrize(("shape", "units"), [((3, 4, 5), 6), ((2, 1, 1), 3)])
def test_a_dense_layer_is_a_convolution_as_large_as_the_map(shape, units):
    """FC and CONV with F = map size: equal parameters, equal outputs (LeNet-5's C5; VGG's fc6)."""
    channels, height, width = shape
    texts = (f"FC({units})", f"CONV({units}, F={height}x{width}, P=valid)")
    with empty_cache():
        networks = [
            compile_text(f"input {channels}@{height}x{width}\nnet N = {t}\n") for t in texts
        ]
        dense, convolving = (n.module(device="cpu", target="triton") for n in networks)
    counts = [sum(p.value.type.elements for p in n.graph.parameters) for n in networks]
    assert counts == [units * (channels * height * width + 1)] * 2
    weight = dense.state_dict()["fc.weight"]
    convolving.load_state_dict(
        {
            "conv.weight": weight.view(units, channels, height, width),
            "conv.bias": dense.state_dict()["fc.bias"],
        }
    )
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(convolving(x).flatten(1), dense(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("shape", "n"), [((3, 5, 4), 7), ((70, 9, 8), 1), ((2, 3), 300), ((4,), 0)]
)
@pytest.mark.parametrize("per_position", [True, False])
def test_bias_gradient(per_position, shape, n, dtype):
    dy = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    order = (*range(1, len(shape)), 0) if per_position else None
    (db,) = run(BiasGradient(per_position), dy, made=[order])
    axes = 0 if per_position else [a for a in range(dy.dim()) if a != 1]
    assert db.dtype == torch.float32
    assert_close(db, dy.double().sum(axes), 1e-5)


def test_bias_per_position_in_a_module_gets_the_gradients_of_all_its_uses():
    program = "module twice = CONV(2, bias=position) - TANH\ninput 2@4x3\nnet N = twice - twice\n"
    assert_targets_agree(program)
