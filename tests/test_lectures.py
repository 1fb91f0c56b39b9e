"""The lectures' worked examples, with the lectures' own numbers.

Each test is named after the lecture (000 to 004) and what it shows. Forward values are asserted on
both targets, gradients on the interpreted kernels against the lectures' formulas and autograd.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convdsl
from convdsl.compiler import Network
from convdsl.diagnostics import CompileError
from convdsl.report.costs import Costs, measure
from convdsl.report.explain import explain

TARGETS = ("torch", "triton")
NETWORKS = Path(__file__).parent.parent / "networks"


def net(text: str) -> Network:
    return convdsl.compile_text(text)


def costs(text: str) -> Costs:
    return measure(net(text).graph)


def shape(text: str) -> tuple[int, ...]:
    """Shape of the output, channels first."""
    return net(text).graph.outputs[0].value.type.shape


def model_of(text: str, target: str, *parameters: Tensor) -> nn.Module:
    """The module with its parameters set, in order."""
    model = net(text).module(target=target, device="cpu")
    with torch.no_grad():
        for mine, given in zip(model.parameters(), parameters, strict=bool(parameters)):
            mine.copy_(given.reshape(mine.shape))
    return model


def grid(*rows: Sequence[float]) -> Tensor:
    """One picture with one channel."""
    return torch.tensor([[rows]], dtype=torch.float32)


def slide(text: str, target: str, x: Tensor, kernel: Tensor) -> Tensor:
    """The map that the program's one convolution without bias makes of one picture."""
    return model_of(text, target, kernel)(x)[0, 0]


def is_exactly(ours: Tensor, *rows: Sequence[float]) -> None:
    assert torch.equal(ours.detach(), torch.tensor(rows, dtype=torch.float32))


# ---- sizes: (W - F + 2P)/S + 1


@pytest.mark.parametrize("stride, size", [(1, 5), (2, 3)])
def test_seed_002_7x7_input_3x3_filter(stride: int, size: int) -> None:
    assert shape(f"input 7x7x1 net = CONV(1, F=3, S={stride}, P=0)") == (1, size, size)


def test_seed_003_stride_3_does_not_fit() -> None:
    program = "input 7x7x1 net = CONV(1, F=3, S=3, P=0)"
    (warning,) = net(program).warnings
    assert warning.code == "W301"
    assert "(7-3+0)/3+1 = 2.33" in f"{warning.message} {' '.join(warning.notes)}"
    with pytest.raises(CompileError, match="E224"):
        convdsl.compile_text(program, strict=True)


def test_seed_000_pad_1_gives_7x7_again() -> None:
    program = "input 7x7x1 net = CONV(1, F=3, S=1, P=1)"
    assert shape(program) == (1, 7, 7)
    (row,) = costs(program).rows
    assert "(7 - 3 + 2)/1 + 1 = 7" in explain(row, net(program).graph.notation)


@pytest.mark.parametrize("filter_size, pad", [(3, 1), (5, 2), (7, 3)])
def test_seed_003_padding_that_keeps_the_size(filter_size: int, pad: int) -> None:
    """Zero padding with (F-1)/2: F = 3, 5, 7 pad with 1, 2, 3."""
    for written in (pad, "half", "same"):
        program = f"input 32x32x1 net = CONV(1, F={filter_size}, P={written})"
        (row,) = costs(program).rows
        assert row.output.spatial == (32, 32)
        assert row.window is not None and row.window.padding == ((pad, pad), (pad, pad))


def test_seed_003_without_padding_volumes_shrink() -> None:
    """32x32 convolved repeatedly with 5x5 filters: 32 -> 28 -> 24."""
    rows = costs("input 32x32x1 net = CONV(1, F=5, P=0)*2").rows
    assert [row.output.height for row in rows] == [28, 24]


def test_seed_002_ten_5x5_filters_on_32x32x3() -> None:
    """(32+2*2-5)/1+1 = 32, so 32x32x10; 5*5*3 + 1 = 76 parameters each, 76*10 = 760."""
    program = "input 32x32x3 net = CONV(10, F=5, S=1, P=2)"
    assert shape(program) == (10, 32, 32)
    assert net(program).parameters_count == 760
    (row,) = costs(program).rows
    assert (row.weights, row.biases) == (750, 10)
    assert row.output.spatial == (32, 32)
    text = explain(row, net(program).graph.notation)
    assert "(32 - 5 + 4)/1 + 1 = 32" in text and "(5*5*3 + 1)*10 = 760" in text


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("filter_size", [1, 2, 3, 5])
def test_seed_000_same_padding_formula(size: int, stride: int, filter_size: int) -> None:
    """Size ceil(I/S), with P_start the floor and P_end the ceiling of (S*ceil(I/S)-I+F-S)/2."""
    (row,) = costs(f"input {size}x{size}x1 net = CONV(1, F={filter_size}, S={stride}, P=same)").rows
    places = -(-size // stride)
    total = max(0, stride * places - size + filter_size - stride)
    assert row.output.spatial == (places, places)
    assert row.window is not None and row.window.padding == ((total // 2, -(-total // 2)),) * 2


@pytest.mark.parametrize("size", range(5, 12))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_seed_000_valid_drops_the_last_window(size: int, stride: int) -> None:
    """No padding; where dimensions do not match, the last convolution is dropped."""
    x = torch.arange(float(size)).expand(1, 1, size, size).contiguous()
    expected = x[0, 0, ::stride, ::stride][: (size - 3) // stride + 1, : (size - 3) // stride + 1]
    corner = grid([1, 0, 0], [0, 0, 0], [0, 0, 0])
    program = f"input {size}x{size}x1 net = CONV(1, F=3, S={stride}, P=valid, bias=false)"
    for target in TARGETS:
        assert torch.equal(slide(program, target, x, corner), expected)


def test_seed_001_full_padding() -> None:
    """p = k - 1."""
    (row,) = costs("input 7x7x1 net = CONV(1, F=3, P=full)").rows
    assert row.output.spatial == (9, 9)
    assert row.window is not None and row.window.padding == ((2, 2), (2, 2))


# ---- convolutions worked out number by number


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_simple_convolution(target: str) -> None:
    """[5, 3, 2, 5, 9, 7] * [1, 2, 3] = [17, 22, 39, 44]."""
    program = "input 1x6x1 net = CONV(1, F=1x3, P=0, bias=false)"
    y = slide(program, target, grid([5, 3, 2, 5, 9, 7]), grid([1, 2, 3]))
    is_exactly(y, [17, 22, 39, 44])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_6x6_vertical_edges(target: str) -> None:
    x = grid(
        [3, 0, 1, 2, 7, 4],
        [1, 5, 8, 9, 3, 1],
        [2, 7, 2, 5, 1, 3],
        [0, 1, 3, 1, 7, 8],
        [4, 2, 1, 6, 2, 8],
        [2, 4, 5, 2, 3, 9],
    )
    edges = grid([1, 0, -1], [1, 0, -1], [1, 0, -1])
    y = slide("input 6x6x1 net = CONV(1, F=3, P=0, bias=false)", target, x, edges)
    is_exactly(y, [-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_7x7_with_stride_2(target: str) -> None:
    """The first row is 91 100 88; the next product is 9 + 7 - 4 + 16 + 32 + 6 + 3 = 69."""
    x = grid(
        [2, 3, 7, 4, 6, 2, 9],
        [6, 6, 9, 8, 7, 4, 3],
        [3, 4, 8, 3, 8, 9, 7],
        [7, 8, 3, 6, 6, 3, 4],
        [4, 2, 1, 8, 3, 4, 6],
        [3, 2, 4, 1, 9, 8, 3],
        [0, 1, 3, 9, 2, 1, 4],
    )
    kernel = grid([3, 4, 4], [1, 0, 2], [-1, 0, 3])
    y = slide("input 7x7x1 net = CONV(1, F=3, S=2, P=0, bias=false)", target, x, kernel)
    assert y.shape == (3, 3)
    is_exactly(y[0], 91, 100, 88)
    assert y[1, 0] == 69


@pytest.mark.parametrize("target", TARGETS)
def test_seed_002_practice_example(target: str) -> None:
    """Stride 2 prints -2 for its second entry; the arithmetic of stride 1 gives 2 there."""
    x = grid(
        [1, 0, 0, 0, 1], [-1, 0, 2, 1, 2], [1, 0, -2, 0, -1], [1, 1, 0, 0, 2], [-2, 0, 3, 0, 0]
    )
    kernel = grid([1, 0, 2], [-1, 1, 1], [0, 2, 1])
    program = "input 5x5x1 net = CONV(1, F=3, S={}, P=0, bias=false)"
    is_exactly(slide(program.format(1), target, x, kernel), [2, -1, 2], [2, 0, 9], [0, 5, -2])
    is_exactly(slide(program.format(2), target, x, kernel), [2, 2], [0, -2])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_000_computation_of_one_number(target: str) -> None:
    """1*1 + 1*0 + 1*1 + 0*0 + 1*1 + 1*0 + 0*1 + 0*0 + 1*1 = 4."""
    x, kernel = grid([1, 1, 1], [0, 1, 1], [0, 0, 1]), grid([1, 0, 1], [0, 1, 0], [1, 0, 1])
    program = "input 3x3x1 net = CONV(1, F=3, P=0, bias=false)"
    is_exactly(slide(program, target, x, kernel), [4])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_a_kernel_can_look_at_one_colour(target: str) -> None:
    """Edges in red only: the cells of the green and blue channels are zero."""
    kernel = torch.zeros(1, 3, 3, 3)
    kernel[0, 0] = torch.tensor([1.0, 0.0, -1.0])
    x = torch.randint(-4, 5, (1, 3, 6, 6)).float()
    y = slide("input 3@6x6 net = CONV(1, F=3, P=0, bias=false)", target, x, kernel)
    alone = "input 1@6x6 net = CONV(1, F=3, P=0, bias=false)"
    assert torch.equal(y, slide(alone, target, x[:, :1], kernel[:, :1]))


@pytest.mark.parametrize("target", TARGETS)
def test_seed_004_left_bright_right_dark(target: str) -> None:
    """The kernel [1 -1] is large where the left pixel is bright and the right one is dark."""
    x = grid([0, 0, 9, 9, 0, 0])
    y = slide("input 1x6x1 net = CONV(1, F=1x2, P=0, bias=false)", target, x, grid([1, -1]))
    is_exactly(y, [0, -9, 0, 9, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_002_max_pooling(target: str) -> None:
    x = grid([1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4])
    y = model_of("input 4x4x1 net = POOL(2, S=2)", target)(x)
    is_exactly(y[0, 0], [6, 8], [3, 4])


# ---- what one output sees, and what it costs


@pytest.mark.parametrize("depth, field", [(1, 3), (2, 5), (3, 7)])
def test_seed_004_receptive_field_of_stacked_3x3_layers(depth: int, field: int) -> None:
    rows = costs(f"input 32x32x4 net = (CONV(4) - RELU)*{depth}").rows
    assert rows[-1].field.size == (field, field)


@pytest.mark.parametrize("channels", [1, 8, 64])
def test_seed_004_three_3x3_layers_cost_less_than_one_7x7(channels: int) -> None:
    """3*(3*3*C) weights for each of the C filters, against 7*7*C."""
    small = costs(f"input 16x16x{channels} net = CONV({channels}, F=3, bias=false)*3")
    large = costs(f"input 16x16x{channels} net = CONV({channels}, F=7, bias=false)")
    assert small.rows[-1].field.size == large.rows[-1].field.size == (7, 7)
    assert small.weights == 27 * channels**2
    assert large.weights == 49 * channels**2


def test_seed_004_weight_sharing_72_against_4() -> None:
    """6 activations from 12 inputs: 72 weights fully connected, 4 shared ones."""
    dense = net("input 3x4x1 net = FC(6, bias=false)")
    shared = net("input 3x4x1 net = CONV(1, F=2, P=0, bias=false)")
    assert [n.graph.inputs[0].type.elements for n in (dense, shared)] == [12, 12]
    assert [n.graph.outputs[0].value.type.elements for n in (dense, shared)] == [6, 6]
    assert (dense.parameters_count, shared.parameters_count) == (72, 4)


def test_seed_000_lenet_and_alexnet_first_layers() -> None:
    """CONV1: 96 11x11 filters at stride 4: 55x55x96, (11*11*3)*96 = 35K; POOL1 27x27x96, none."""
    conv, pool = costs("input 227x227x3 net = CONV(96, F=11, S=4, P=0) - POOL(3, S=2)").rows
    assert (conv.output.shape, conv.weights) == ((96, 55, 55), 34_848)
    assert (pool.output.shape, pool.count) == ((96, 27, 27), 0)


#: seed 000's listing of AlexNet: what it prints before each layer, and the layer's name here
ALEXNET = """
[55x55x96] CONV, [27x27x96] POOL, [27x27x96] LRN,
[27x27x256] CONV, [13x13x256] POOL, [13x13x256] LRN,
[13x13x384] CONV, [13x13x384] CONV, [13x13x256] CONV, [6x6x256] POOL,
[4096] FC, [4096] FC, [1000] FC
"""


def test_seed_000_alexnet_listing() -> None:
    """Every volume of the listing; 35K weights in its first layer."""
    measured = measure(convdsl.compile(NETWORKS / "alexnet.cnn").graph)
    listed = {"CONV", "POOL", "LRN", "FC"}
    shown = [
        f"[{measured.graph.notation.show(row.output)}] {row.op.name}"
        for row in measured.rows
        if row.op.name in listed
    ]
    assert shown == ALEXNET.strip().replace("\n", " ").split(", ")
    assert measured.rows[0].weights == 34_848


@pytest.mark.parametrize("filters", [128, 192, 256, 384])
def test_seed_000_alphago_volumes(filters: int) -> None:
    """CONV1 19x19xk, CONV2..12 19x19xk, CONV 19x19 with a bias for each of its positions."""
    measured = measure(convdsl.compile(NETWORKS / "alphago_policy.cnn", k=filters).graph)
    rows = [row for row in measured.rows if row.weights]
    assert [r.output.shape for r in rows] == [(filters, 19, 19)] * 12 + [(1, 19, 19)]
    assert [r.weights for r in rows[:2]] == [5 * 5 * 48 * filters, 3 * 3 * filters * filters]
    assert rows[-1].weights == filters
    assert sum(r.biases for r in measured.rows) == 12 * filters + 19 * 19
    assert measured.rows[-1].output.elements == 361


def test_seed_000_1x1_convolution_saves_work() -> None:
    """Reducing 192 channels to 16 before the 5x5 filters of the first inception module."""
    direct = costs("input 28x28x192 net = CONV(32, F=5)")
    reduced = costs("input 28x28x192 net = CONV(16, F=1) - RELU - CONV(32, F=5)")
    assert direct.rows[-1].output == reduced.rows[-1].output
    assert direct.macs == 28 * 28 * 32 * 5 * 5 * 192 == 120_422_400
    assert reduced.macs == 28 * 28 * 16 * 192 + 28 * 28 * 32 * 5 * 5 * 16 == 12_443_648


@pytest.mark.parametrize("target", TARGETS)
def test_seed_002_convolution_can_do_what_fc_does(target: str) -> None:
    """fc6 as 5x5 VALID filters on a 5x5 map and fc7 as 1x1 ones: same weights, same scores."""
    dense = "input 3@5x5 net = FC(6) - RELU - FC(4)"
    as_conv = "input 3@5x5 net = CONV(6, F=5, P=valid) - RELU - CONV(4, F=1)"
    assert net(dense).parameters_count == net(as_conv).parameters_count
    assert costs(dense).macs == costs(as_conv).macs
    model = model_of(dense, target)
    twin = model_of(as_conv, target, *model.parameters())
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(twin(x).flatten(1), model(x))


def test_seed_002_fc_against_conv_weights_and_multiplications() -> None:
    """To the same 28x28x6 volume: FC has many weights, CONV few, each used at every place."""
    fc, conv = costs("input 32x32x1 net = FC(4704)"), costs("input 32x32x1 net = CONV(6, F=5, P=0)")
    assert (fc.weights, fc.macs) == (1024 * 4704, 1024 * 4704)
    assert (conv.weights, conv.macs) == (150, 150 * 28 * 28)
