"""Sequences C@L: CONV1D by itself, and whole networks on them on both targets."""

import pytest
import torch
from torch import nn

from convdsl.codegen.header import channels_first, channels_last, storage_shape
from convdsl.compiler import compile_text
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.conv import Conv
from convdsl.ops.conv1d import Conv1d
from convdsl.ops.flatten import Flatten
from tests.conv_driver import (
    TOLERANCE,
    assert_close,
    assert_targets_agree,
    by_kernels,
    by_meaning,
    operands,
    oracle,
)
from tests.empty_cache import empty_cache
from tests.kernel_driver import run

# layer, input sequence, batch
GRID = [
    (Conv1d(4), (3, 8), 2),
    (Conv1d(6, (4,), (2,), "same", groups=2), (4, 9), 3),
    (Conv1d(3, (3,), (2,), ((2, 1),), (2,), bias=False), (2, 11), 1),
    (Conv1d(3, (5,), (3,), "full"), (2, 11), 1),
    (Conv1d(5, (1,)), (17, 3), 2),
    (Conv1d(4, (2,), (4,), "same"), (1, 9), 2),  # places no window reaches
    (Conv1d(2, (7,), pad="valid"), (1, 7), 1),  # one output
    (Conv1d(1, (1,)), (1, 1), 1),
    (Conv1d(20, (3,)), (32, 70), 1),
    (Conv1d(4, (3,), (2,)), (3, 5), 0),
]
NAMES = [f"{layer.filters}x{layer.kernel}s{layer.stride}on{x}n{n}" for layer, x, n in GRID]


def test_convolution_of_the_lectures():
    """Seed 001: [5 3 2 5 9 7] * [1 2 3] = [17 22 39 44], the kernel not turned."""
    x = torch.tensor([[[5.0, 3, 2, 5, 9, 7]]])
    weight = torch.tensor([[[1.0, 2, 3]]])
    layer = Conv1d(1, pad="valid", bias=False)
    (y,) = run(layer, x, parameters=(weight,))
    assert y.tolist() == [[[17, 22, 39, 44]]]


def test_figures():
    x = TensorType((2, 128))
    layer = Conv1d(16, (5,), (2,))
    assert layer.shape(x).shape == (16, 64)
    assert layer.parameters(x)["weight"].shape == (16, 2, 5)
    assert layer.parameters(x)["weight"].permute == (0, 2, 1)
    assert layer.formulas(x) == (
        "parameters = (F*C1 + 1)*K = (5*2 + 1)*16 = 176",
        "MACs = F*C1 * L2*K = 5*2 * 64*16 = 10,240",
    )


def test_shared_weights_of_the_lectures():
    """Seed 001: 12 inputs, 6 outputs: 72 weights dense, a handful shared."""
    x = TensorType((1, 12))
    layer = Conv1d(1, (4,), (2,), ((1, 1),), bias=False)
    assert layer.shape(x).shape == (1, 6)
    assert torch.Size(layer.parameters(x)["weight"].shape).numel() == 4


@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_meaning_is_a_convolution_over_a_map_of_one_row(layer, shape, n):
    x, parameters, dy = operands(layer, shape, n, torch.float64)
    pad = layer.pad if layer.pad in ("same", "half", "valid") else None
    if pad is None:
        pad = ((0, 0), *layer.window(TensorType(shape)).padding)
    over_map = Conv(
        layer.filters,
        (1, *layer.kernel),
        (1, *layer.stride),
        pad,
        (1, *layer.dilation),
        layer.groups,
        layer.bias,
    )
    weight, *bias = [p.double() for p in parameters]
    row = (x.double()[:, :, None], (weight[:, :, None], *bias), dy.double()[:, :, None])
    y, gradients = oracle(over_map, *row)
    mine, found = by_meaning(layer, x.double(), (weight, *bias), dy.double())
    for actual, expected in zip((mine, *found), (y, *gradients), strict=True):
        assert_close(actual, expected.reshape(actual.shape), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), GRID, ids=NAMES)
def test_kernels(layer, shape, n, dtype):
    x, parameters, dy = operands(layer, shape, n, dtype)
    y, gradients = oracle(layer, x, parameters, dy)
    mine, found = by_kernels(layer, x, parameters, dy)
    for actual, expected in zip((mine, *found), (y, *gradients), strict=True):
        assert_close(actual, expected, TOLERANCE[dtype])


def test_parameters_are_those_of_torch():
    ours = Conv1d(6, (4,), groups=2, pad="same").parameters(TensorType((4, 9)))
    theirs = nn.Conv1d(4, 6, 4, groups=2).state_dict()
    assert {k: s.shape for k, s in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("layer", "shape", "code"),
    [
        (Conv1d(4), (3, 5, 5), "E214"),
        (Conv(4), (3, 5), "E214"),
        (Conv1d(4), (12,), "E214"),
        (Conv1d(4, (2,)), (3, 5), "E222"),
        (Conv1d(4, (7,), pad="valid"), (3, 5), "E212"),
        (Conv1d(4, groups=2), (3, 5), "E213"),
    ],
)
def test_misfits(layer, shape, code):
    with pytest.raises(ShapeError) as caught:
        layer.shape(TensorType(shape))
    assert caught.value.code == code


def test_storage_is_channels_last():
    assert storage_shape(TensorType((3, 9))) == "(n, 9, 3)"
    assert storage_shape(TensorType((3, 9), batched=False)) == "(3, 9)"
    for shape in ((3,), (3, 9), (3, 4, 5)):
        kind = TensorType(shape)
        x = torch.zeros(2, *shape)
        last = eval(f"x{channels_last(kind)}", {"x": x})
        assert f"({', '.join(map(str, last.shape))})".replace("2", "n", 1) == storage_shape(kind)
        assert eval(f"y{channels_first(kind)}", {"y": last}).shape == x.shape


def test_flatten_keeps_torchs_order():
    x = torch.arange(24.0).reshape(2, 3, 4)
    (y,) = run(Flatten(), x)
    assert torch.equal(y, x.flatten(1))


PROGRAMS = {
    "conv": "input 3@8\nnet N = CONV1D(4, F=3) - RELU\n",
    "stack": "input 2@13\nnet N = [CONV1D(4, S=2) - TANH]*2 - FC(5)\n",
    "skip": "input 4@6\nnet N = ADD{ CONV1D(4) - RELU | ID } - CONV1D(2, F=2, P=same)\n",
    "concat": "input 3@7\nnet N = CONCAT{ CONV1D(2) | CONV1D(3, F=5) - SIGMOID } - FLATTEN\n",
    "two inputs": "input a: 2@9\ninput b: 2@9\n"
    "net N = ADD{ @a - CONV1D(3) | @b - CONV1D(3) } - FC(2)\n",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_networks(name):
    assert_targets_agree(PROGRAMS[name])


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    assert_targets_agree(PROGRAMS["stack"], batch)


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_either_layout_and_its_refusals(target):
    network = compile_text("input 3@8\nnet N = CONV1D(4, F=3, S=2)\n")
    with empty_cache():
        first, last = (
            network.module(device="cpu", target=target, layout=layout)
            for layout in ("NCHW", "NHWC")
        )
    last.load_state_dict(first.state_dict())
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    y = first(x)
    assert y.shape == (2, 4, 4)
    assert torch.equal(last(x.movedim(1, -1)), y.movedim(1, -1))
    with pytest.raises(ValueError, match=r"\(N, 3, 8\), got \(2, 8, 3\); the network reads NCL"):
        first(x.movedim(1, -1))
    with pytest.raises(ValueError, match=r"\(N, 8, 3\), got \(2, 3, 8\); the network reads NLC"):
        last(x)
    with pytest.raises(ValueError, match="needs a batch axis"):
        first(x[0])
