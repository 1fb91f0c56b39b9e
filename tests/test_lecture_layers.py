"""The lectures' other layers: pooling of every kind, activations, gates, distances, losses.

Each test is named after the lecture and what it shows, as in test_lectures.py, which has the
convolutions.
"""

import pytest
import torch
import torch.nn.functional as F

import convdsl
from tests.test_lectures import NETWORKS, TARGETS, costs, grid, is_exactly, model_of, net

#: the single depth slice of seeds 002 and 003
SLICE = grid([1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4])


# ---- dense, local and shared connections


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_local_connectivity_and_weight_sharing(target: str) -> None:
    """7 inputs, 3 hidden units: 3*7 = 21 weights in all, 3*3 = 9 local ones, 3*1 = 3 shared."""
    programs = {
        "input 7 net = FC(3, bias=false)": 21,
        "input 1@7 net = LOCAL1D(1, F=3, S=2, bias=false)": 9,
        "input 1@7 net = CONV1D(1, F=3, S=2, P=0, bias=false)": 3,
    }
    for program, weights in programs.items():
        assert net(program).parameters_count == weights
        assert net(program).graph.outputs[0].value.type.elements == 3
    full, local, shared = programs
    x, kernel = torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0, 7.0, 6.0]), torch.tensor([1.0, 2.0, 3.0])
    wanted = [1 + 10 + 6, 2 + 8 + 9, 3 + 14 + 18]
    is_exactly(model_of(shared, target, kernel)(x[None, None])[0, 0], *wanted)
    # the shared weights are local ones that are equal, and local ones dense ones that are zero
    is_exactly(model_of(local, target, kernel.repeat(3))(x[None, None])[0, 0], *wanted)
    dense = torch.stack([F.pad(kernel, (2 * i, 4 - 2 * i)) for i in range(3)])
    is_exactly(model_of(full, target, dense)(x[None])[0], *wanted)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_000_one_dimensional_convolution(target: str) -> None:
    """y0 = x0 w0 + x1 w1 + x2 w2, y1 = x1 w0 + x2 w1 + x3 w2; here with seed 001's numbers."""
    x = torch.tensor([[[5.0, 3.0, 2.0, 5.0, 9.0, 7.0]]])
    program = "input 1@6 net = CONV1D(1, F=3, P=0, bias=false)"
    is_exactly(model_of(program, target, torch.tensor([1.0, 2.0, 3.0]))(x)[0, 0], 17, 22, 39, 44)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_a_single_value_is_a_75_dimensional_dot_product(target: str) -> None:
    """5*5*3 numbers under the filter: w^T x + b."""
    torch.manual_seed(0)
    x, w, b = torch.randn(1, 3, 5, 5), torch.randn(75), torch.randn(1)
    y = model_of("input 5x5x3 net = CONV(1, F=5, P=0)", target, w, b)(x)
    assert y.numel() == 1
    torch.testing.assert_close(y.flatten(), w.dot(x.flatten())[None] + b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_000_stride_and_dilation_together(target: str) -> None:
    """Keras calls strides and dilations that are both not 1 incompatible; here they are not."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 3, 9, 8), torch.randn(4, 3, 3, 3)
    y = model_of("input 3@9x8 net = CONV(4, S=2, dilation=2, P=0, bias=false)", target, w)(x)
    torch.testing.assert_close(y, F.conv2d(x, w, stride=2, dilation=2), rtol=1e-5, atol=1e-5)


def test_seed_000_kernel_dimensions() -> None:
    """{height, width, in_channel, out_channel} = {5, 5, 3, 2}."""
    (weight, bias) = net("input 8x8x3 net = CONV(2, F=5)").graph.parameters
    assert weight.value.type.shape == (2, 3, 5, 5)
    assert bias.value.type.shape == (2,)


@pytest.mark.parametrize("filters", [16, 192, 256])
def test_seed_000_a_1x1_convolution_sets_the_number_of_channels(filters: int) -> None:
    """Of its three merits the first; the map keeps its size."""
    (row,) = costs(f"input 28x28x192 net = CONV({filters}, F=1)").rows
    assert row.output.shape == (filters, 28, 28)
    assert row.weights == 192 * filters


def test_seed_001_nets_without_dense_layers_take_inputs_of_any_size() -> None:
    path = NETWORKS / "allconv.cnn"
    counts = {
        convdsl.compile(path, input=shape).parameters_count for shape in ("32x32x3", "47x61x3")
    }
    assert counts == {1_369_738}


# ---- fixed image kernels

SEED_001_KERNELS = {
    "identity": ([0, 0, 0], [0, 1, 0], [0, 0, 0]),
    "edge1": ([1, 0, -1], [0, 0, 0], [-1, 0, 1]),
    "edge2": ([0, 1, 0], [1, -4, 1], [0, 1, 0]),
    "edge3": ([-1, -1, -1], [-1, 8, -1], [-1, -1, -1]),
    "sharpen": ([0, -1, 0], [-1, 5, -1], [0, -1, 0]),
    "box_blur": ([1 / 9, 1 / 9, 1 / 9],) * 3,
    "gaussian_blur": ([1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", SEED_001_KERNELS)
def test_seed_001_image_kernels(kernel: str, target: str) -> None:
    """Identity, three edge detectors, sharpen, box and Gaussian blur; nothing to learn."""
    program = f"input 5x7x1 net = FILTER({kernel}, P=0)"
    assert net(program).parameters_count == 0
    torch.manual_seed(0)
    x = torch.randn(2, 1, 5, 7)
    y = model_of(program, target)(x)
    torch.testing.assert_close(
        y, F.conv2d(x, grid(*SEED_001_KERNELS[kernel])), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_a_6x6_input_under_the_vertical_edge_kernel(target: str) -> None:
    """The kernel of test_lectures.py by its name: the first row is -5 -4 0 8."""
    x = grid([3, 0, 1, 2, 7, 4], [1, 5, 8, 9, 3, 1], [2, 7, 2, 5, 1, 3])
    y = model_of("input 3x6x1 net = FILTER(vertical_edge, P=valid)", target)(x)
    is_exactly(y[0, 0], [-5, -4, 0, 8])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_004_where_left_is_bright_and_right_is_dark(target: str) -> None:
    """[1 -1] by its name."""
    y = model_of("input 1x6x1 net = FILTER(difference, P=0)", target)(grid([0, 0, 9, 9, 0, 0]))
    is_exactly(y[0, 0], [0, -9, 0, 9, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_004_a_kernel_is_large_where_the_image_looks_like_it(target: str) -> None:
    """[.6 .2 0; .2 0 .2; 0 .2 .6]: a line along its diagonal stands out from all others."""
    model = model_of("input 3x3x1 net = FILTER(diagonal, P=0)", target)
    lines = (
        grid([1, 0, 0], [0, 1, 0], [0, 0, 1]),
        grid([0, 0, 1], [0, 1, 0], [1, 0, 0]),
        grid([0, 1, 0], [0, 1, 0], [0, 1, 0]),
        grid([0, 0, 0], [1, 1, 1], [0, 0, 0]),
    )
    seen = [model(line).item() for line in lines]
    assert seen == pytest.approx([1.2, 0.0, 0.4, 0.4])


# ---- pooling


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "layer, rows",
    [
        ("POOL", ([6, 8], [3, 4])),
        ("AVGPOOL", ([13 / 4, 21 / 4], [2, 2])),
        ("WEIGHTEDPOOL", ([13 / 4, 21 / 4], [2, 2])),  # of two places each weighs a half
        ("SUMPOOL", ([13, 21], [8, 8])),
        ("L2POOL", ([63**0.5, 133**0.5], [18**0.5, 26**0.5])),
    ],
)
def test_seed_001_pooling_functions(
    layer: str, rows: tuple[list[float], list[float]], target: str
) -> None:
    """Max, average, weighted average, sum and L2 norm of nearby outputs."""
    y = model_of(f"input 4x4x1 net = {layer}(2, S=2)", target)(SLICE)
    expected = torch.tensor(rows, dtype=torch.float32)
    torch.testing.assert_close(y[0, 0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_a_weighted_average_by_the_distance_from_the_centre(target: str) -> None:
    """The weights (1 2 1; 2 4 2; 1 2 1)/16 of the seed's Gaussian blur."""
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    y = model_of("input 4x4x1 net = WEIGHTEDPOOL(3, S=1)", target)(SLICE)
    torch.testing.assert_close(y, F.conv2d(SLICE, weights[None, None]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_000_max_pooling_with_stride_1(target: str) -> None:
    y = model_of("input 4x4x1 net = POOL(2, S=1)", target)(SLICE)
    is_exactly(y[0, 0], [6, 7, 8], [6, 7, 8], [3, 3, 4])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_004_spatial_pooling_hides_a_small_translation(target: str) -> None:
    x = grid([0, 0, 0, 0], [9, 0, 0, 0], [0, 0, 7, 0], [0, 0, 0, 0])
    model = model_of("input 4x4x1 net = POOL(2, S=2)", target)
    moved = x.roll((-1, 1), (2, 3))
    assert not torch.equal(moved, x)
    is_exactly(model(x)[0, 0], [9, 0], [0, 7])
    # within its windows the 9 moves unseen; the 7 leaves its own
    is_exactly(model(moved)[0, 0], [9, 7], [0, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_004_cross_channel_pooling_hides_a_rotation(target: str) -> None:
    """Three kernels for one sign in three rotations: whichever it is, the response is large."""
    sign = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    turned = [sign.rot90(k) for k in range(3)]
    program = "input 3x3x1 net = CONV(3, F=3, P=0, bias=false) - CHPOOL(3)"
    model = model_of(program, target, torch.stack(turned))
    for picture in turned:
        y = model(picture[None, None])
        assert y.shape == (1, 1, 1, 1) and y.item() == sign.sum()


# ---- activations, gates


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_activation_functions(target: str) -> None:
    """Sigmoid, tanh, ReLU, leaky ReLU max(0.1x, x), ELU, Swish and PReLU at a few places."""
    x = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 2.0]])
    formulas = {
        "SIGMOID": 1 / (1 + torch.exp(-x)),
        "TANH": torch.tanh(x),
        "RELU": torch.maximum(torch.zeros(()), x),
        "LEAKY_RELU(slope=0.1)": torch.maximum(0.1 * x, x),
        "ELU": torch.where(x >= 0, x, torch.exp(x) - 1),
        "SWISH": x / (1 + torch.exp(-x)),
        "PRELU": torch.where(x > 0, x, 0.25 * x),
    }
    for layer, expected in formulas.items():
        y = model_of(f"input 5 net = {layer}", target)(x)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_maxout(target: str) -> None:
    """max(w1^T x + b1, w2^T x + b2)."""
    x, w, b = torch.tensor([[3.0, -1.0], [-2.0, 4.0]]), grid([1, 2], [-3, 1]), torch.tensor([1, 2])
    y = model_of("input 2 net = FC(2) - MAXOUT(2)", target, w, b)(x)
    is_exactly(y, [max(3 - 2 + 1, -9 - 1 + 2)], [max(-2 + 8 + 1, 6 + 4 + 2)])


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_squeeze_and_excitation(target: str) -> None:
    """SENet, the winner of 2017: every channel is multiplied by a number worked out of all."""
    torch.manual_seed(0)
    program = "input 4@3x5 net = MUL{ID | GAP - FC(2) - RELU - FC(4) - SIGMOID}"
    w1, b1, w2, b2 = weights = [torch.randn(s) for s in ((2, 4), (2,), (4, 2), (4,))]
    x = torch.randn(2, 4, 3, 5)
    gate = torch.sigmoid(F.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2)
    y = model_of(program, target, *weights)(x)
    torch.testing.assert_close(y, x * gate[:, :, None, None], rtol=1e-5, atol=1e-5)


# ---- losses and heads


@pytest.mark.parametrize("target", TARGETS)
def test_seed_003_classification_losses(target: str) -> None:
    """Hinge loss: the sum over the others of max(0, s_j - s_y + 1); softmax loss: -log p_y."""
    scores, labels = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0]]), torch.tensor([0, 1])
    hinge = max(0.0, 5.1 - 3.2 + 1) + max(0.0, -1.7 - 3.2 + 1) + 0.0
    # our SVM divides by the number of classes, as torch does
    svm = model_of("input 3 net = ID, SVM", target)(scores, labels)
    torch.testing.assert_close(svm, torch.tensor(hinge / 3 / 2))
    p = scores.exp() / scores.exp().sum(1, keepdim=True)
    softmax = model_of("input 3 net = ID, SOFTMAX", target)
    torch.testing.assert_close(softmax(scores, labels), -(p[0, 0].log() + p[1, 1].log()) / 2)
    torch.testing.assert_close(softmax.predict(scores), p)


@pytest.mark.parametrize("target", TARGETS)
def test_seed_000_alphago_has_a_bias_for_each_position(target: str) -> None:
    """1 filter of 1x1 with a different bias at each of the positions, and a softmax over them."""
    program = "input 2@19x19 net = CONV(1, F=1, P=0, bias=position) - FLATTEN, SOFTMAX"
    assert net(program).parameters_count == 2 + 361
    bias = torch.linspace(-3, 3, 361)
    model = model_of(program, target, torch.tensor([1.0, -1.0]), bias)
    x = torch.ones(1, 2, 19, 19)
    torch.testing.assert_close(model.predict(x)[0], bias.softmax(0))


@pytest.mark.parametrize("target", TARGETS)
def test_seed_001_siamese_towers_share_their_weights(target: str) -> None:
    """Equal pictures are at distance 0 (but for the 1e-6 that torch adds to each difference)."""
    program = (
        "input left: 1@6x6 input right: 1@6x6 module tower = CONV(2) - RELU - FC(3)"
        " net = DISTANCE{@left - tower | @right - tower}, CONTRASTIVE(margin=100)"
    )
    assert net(program).parameters_count == 2 * 9 + 2 + 72 * 3 + 3
    torch.manual_seed(0)
    model = model_of(program, target)
    a, b = torch.randn(2, 1, 6, 6), torch.randn(2, 1, 6, 6)
    assert float(model(a, a).detach().abs().max()) < 1e-5
    d = model(a, b).detach()
    torch.testing.assert_close(model(b, a).detach(), d, rtol=1e-4, atol=1e-4)
    same, different = torch.ones(2, 1), torch.zeros(2, 1)
    torch.testing.assert_close(model(a, b, same).detach(), (d**2).mean())
    torch.testing.assert_close(model(a, b, different).detach(), ((100 - d) ** 2).mean())


# ---- AlexNet on two machines


def test_seed_002_neurons_of_alexnet() -> None:
    """253,440-186,624-64,896-64,896-43,264-4096-4096-1000, as the paper's figure 2 counts them.

    Its first number is not that of 55x55x96 maps, which hold 290,400; all others are.
    """
    rows = costs((NETWORKS / "alexnet_groups.cnn").read_text()).rows
    neurons = [row.output.elements for row in rows if row.weights]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]


def test_seed_004_alexnet_has_around_60_million_weights() -> None:
    """Over half of them are in the first fully connected layer."""
    measured = costs((NETWORKS / "alexnet_groups.cnn").read_text())
    first = next(row for row in measured.rows if row.weights and row.output.is_vector)
    assert measured.weights == 60_954_656
    assert measured.weights / 2 < first.weights == 6 * 6 * 256 * 4096
