"""1x1 convolutions of one input as one: which are merged, and that all answers stay the same."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from convdsl.codegen.launches import Part
from convdsl.codegen.traffic import launch_moves
from convdsl.compiler import Network, compile_text
from convdsl.ir.graph import Node
from convdsl.ir.group import members
from convdsl.ops._siblings import SiblingConv, SiblingGradWeight, SiblingStatistics
from convdsl.ops._stack import Stack
from convdsl.pipeline import OPTIONAL, PIPELINE
from convdsl.reference import run_backward, run_forward
from tests.graphs import random_inputs, random_parameters
from tests.kernel_driver import run
from tests.test_prologues import of_training
from tests.test_traffic import BATCH, HALF, agree, step

#: as of GoogLeNet, with one convolution whose statistics are its only reader's and one's in a 1x1
INCEPTION = (
    "CONCAT{ cbr(8, 1) | cbr(16, 1) - cbr(8, 3) | cbr(8, 1) - cbr(8, 1)"
    " | POOL(3, S=1, P=1) - cbr(8, 1) } - CONV(4, 1)"
)
BOTTLENECK = (
    "ADD{ cbr(8, 1) - cbr(8, 3) - CONV(16, 1) - BN | CONV(16, 1) - BN } - RELU - CONV(4, 3)"
)


#: programs, filters in the order in which gradients are merged, and those merged forward as well
WITHOUT_BN = [
    # the CONCAT begins with a branch of the family, which goes last; other activations are apart
    (
        "TANH - CONCAT{ CONV(8, 1) - RELU | CONV(16, 1) - RELU - CONV(8, 3) | CONV(8, 1) - TANH"
        " - CONV(8, 1) | POOL(3, S=1, P=1) - CONV(8, 1) } - CONV(4, 1)",
        [(16, 8, 8)],
        [24],
    ),
    # the first is pooled in the epilogue, which leaves one of each kind
    (
        "CONCAT{ CONV(8, 1) - RELU - POOL | CONV(16, 1) - SWISH - CONV(8, S=2) | CONV(8, 1) - RELU"
        " - AVGPOOL } - CONV(4, 1)",
        [(8, 16, 8)],
        [],
    ),
    # a derivative that asks for the input; more channels than a tile has
    (
        "CONCAT{ CONV(24, 1) - SWISH - CONV(8, 3) | CONV(40, 1) - SWISH - CONV(8) } - CONV(4, 1)",
        [(24, 40)],
        [64],
    ),
    # nothing goes to a CONCAT
    (
        "ADD{ CONV(8, 1) - RELU - CONV(9, 3) | CONV(16, 1) - RELU - CONV(9, 3) } - CONV(4, 1)",
        [(8, 16)],
        [24],
    ),
]
TEXTS_WITHOUT_BN = [text for text, _, _ in WITHOUT_BN]


def program(shape: str, text: str, bias: bool = False) -> Network:
    return compile_text(
        f"input {shape}\ndefault CONV(bias={str(bias).lower()})\n"
        f"block cbr(k, f) = CONV(k, f) - BN - RELU\nnet Example = {text}\n"
    )


def inner(network: Network) -> list[Node]:
    return [node for group in network.fused.all_nodes for node in members(group)]


def families(network: Network) -> list[int]:
    """How many filters the merged convolutions have."""
    return [n.output.type.channels for n in inner(network) if isinstance(n.op, SiblingConv)]


def gradients(network: Network) -> list[tuple[int, ...]]:
    """Filters of the convolutions whose gradients are merged."""
    return [n.op.filters for n in inner(network) if isinstance(n.op, SiblingGradWeight)]


@pytest.fixture
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without BN may be small too."""
    monkeypatch.setattr("convdsl.passes.merge_siblings.LEAST_ELEMENTS", 1)


def without(network: Network, *passes: str) -> Network:
    return replace(network, without=passes)


def answers(network: Network, training: bool) -> dict[str, Tensor]:
    """Output, gradients and updates by name, of the fused graph in float64."""
    graph = network.fused
    inputs, parameters = random_inputs(graph, 3), random_parameters(graph)
    parameters = {k: p.abs() if "var" in k else p for k, p in parameters.items()}
    values = run_forward(graph, inputs, parameters, training=training)
    y = values[graph.outputs[0].value]
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    gradients = run_backward(graph, values, [cotangent], training=training)
    updates = {old.name: values[new] for old, new in graph.updates}
    return {"y": y, **{v.name: g for v, g in gradients.items()}, **updates}


def same_answers(network: Network, training: bool, *passes: str) -> None:
    """With all passes but these, and with none that may be left out."""
    found = answers(without(network, *passes), training)
    expected = answers(without(network, *OPTIONAL), training)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("text", [f"TANH - {INCEPTION}", BOTTLENECK])
def test_every_value_is_that_of_the_graph_before(text: str, bias: bool, training: bool) -> None:
    network = program("3@5x4", text, bias)
    assert families(network)
    same_answers(network, training)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("text", "filters", "forward"), WITHOUT_BN)
def test_answers_without_bn_are_those_of_the_graph_before(
    text: str, filters: list[tuple[int, ...]], forward: list[int], bias: bool, however_small: None
) -> None:
    network = program("3@6x4", text, bias)
    assert gradients(network) == filters and families(network) == forward
    same_answers(network, True)
    same_answers(network, True, "drop_dead", "fuse_epilogues")


#: the other passes for the training graph
OTHERS = [name for name, _ in PIPELINE if name in OPTIONAL - {"merge_siblings"}]


@pytest.mark.parametrize(
    "without", [c for n in (0, 1, 2, len(OTHERS)) for c in combinations(OTHERS, n)]
)
def test_any_subset_of_passes_gives_the_same_gradients(
    without: tuple[str, ...], however_small: None
) -> None:
    same_answers(program("3@3x4", INCEPTION), True, *without)
    same_answers(program("3@3x4", TEXTS_WITHOUT_BN[0], bias=True), True, *without)


@pytest.mark.parametrize(
    ("text", "bias", "left_out"),
    [
        (INCEPTION, False, ()),
        (INCEPTION, True, ("fuse_prologues",)),
        (INCEPTION, False, ("fuse_epilogues",)),
        (INCEPTION, False, ("place_slices",)),
        (BOTTLENECK, True, ()),
    ],
)
def test_kernels_train_as_in_torch(text: str, bias: bool, left_out: tuple[str, ...]) -> None:
    network = without(program("3@5x3", text, bias), *left_out)
    assert families(network)
    ours, torchs = (of_training(network, t, (3, 5, 3), 3) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        # a bias before BN has no gradient but what rounding leaves
        scale = max(float(other.abs().max()), 2.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        *((text, ()) for text in TEXTS_WITHOUT_BN),
        (TEXTS_WITHOUT_BN[0], ("place_slices",)),
        (TEXTS_WITHOUT_BN[0], ("fuse_epilogues",)),
        (TEXTS_WITHOUT_BN[2], ("pack_masks", "place_slices")),
    ],
)
def test_kernels_without_bn_train_as_in_torch(
    text: str, left_out: tuple[str, ...], however_small: None
) -> None:
    network = without(program("3@6x4", text, bias=True), *left_out)
    assert gradients(network)
    ours, torchs = (of_training(network, t, (3, 6, 4), 3) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = max(float(other.abs().max()), 1.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_parameters_stay_what_they_are() -> None:
    network = program("3@4x4", INCEPTION)
    one = network.module(device="cpu", target="triton").state_dict()
    other = without(network, "merge_siblings").module(device="cpu", target="triton").state_dict()
    assert [(k, v.shape) for k, v in one.items()] == [(k, v.shape) for k, v in other.items()]


def test_one_product_each_and_nothing_is_copied_but_filters() -> None:
    network = program("3@6x6", INCEPTION)
    assert families(network) == [32]
    kinds = [type(n.op) for n in inner(network)]
    assert kinds.count(SiblingStatistics) == kinds.count(SiblingGradWeight) == 1
    # gradients to the input: behind the pooling, and of all siblings
    reads = [n for n in inner(network) if n.op.title == "conv_grad_input"]
    assert [n.op.geometry.weight[0] for n in reads if n.output.type.channels == 3] == [8, 32]
    launches = network.triton.launches
    assert not [x for x in launches if x.nest == "copy_slice" and not x.epilogue]
    (stack,) = (x for x in launches if x.nest == "stack")
    assert [stack.arguments[f"end{i}"].text for i in range(4)] == ["24", "72", "96", "96"]


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        (INCEPTION, [32]),
        (BOTTLENECK, [24]),
        ("CONCAT{cbr(8, 1) | cbr(8, 1)} - CONCAT{cbr(8, 1) | cbr(16, 1)}", [16, 24]),
        # sequences are below; no BN, and one without
        ("CONCAT{CONV(8, 1) - RELU | CONV(8, 1) - RELU}", []),
        ("CONCAT{CONV(8, 1) - RELU | cbr(8, 1) | cbr(16, 1)}", [24]),
        # taps, steps, groups, padding
        ("CONCAT{cbr(8, 3) | cbr(8, 1)}", []),
        ("CONCAT{CONV(8, 1, S=2) - BN - RELU | CONV(8, 1, S=2) - BN - RELU}", []),
        ("CONCAT{CONV(8, 1, groups=2) - BN - RELU | cbr(8, 1)}", []),
        ("CONCAT{CONV(8, 1, P=1) - BN - RELU | CONV(8, 1, P=1) - BN - RELU}", []),
        # a bias for some, other statistics, another input, no whole vectors
        ("CONCAT{CONV(8, 1, bias=true) - BN - RELU | cbr(8, 1)}", []),
        ("CONCAT{CONV(8, 1) - BN(eps=0.1) - RELU | cbr(8, 1)}", []),
        ("CONCAT{cbr(8, 1) | TANH - cbr(8, 1)}", []),
        ("CONCAT{cbr(8, 1) | cbr(7, 1) | cbr(9, 1)}", []),
        # something else is done with what the convolution makes
        ("CONCAT{cbr(8, 1) | CONV(8, 1) as t - BN - RELU | @t - TANH}", []),
        # the same gradient for both, or channels of one
        ("ADD{CONV(8, 1) - BN | CONV(8, 1) - BN} - RELU", []),
        ("CONCAT{CONV(8, 1) - BN | CONV(8, 1) - BN} - RELU", []),
    ],
)
def test_who_is_a_sibling(text: str, filters: list[int]) -> None:
    network = program("4@4x4", f"CONV(4, 3) - {text} - CONV(2, 3)")
    assert families(network) == filters
    assert not families(without(network, "merge_siblings"))


def test_a_layer_that_is_used_twice_moves_its_statistics_twice() -> None:
    text = "input 4@4x4 module m = CONV(8, 1, bias=false) - BN - RELU net A = TANH - CONCAT{m | m}"
    assert not families(compile_text(f"{text} - CONV(2)"))


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("CONCAT{CONV(8, 1) - RELU | CONV(16, 1) - TANH}", [(8, 16)]),
        (
            "CONCAT{CONV(8, 1) - RELU | CONV(16, 1) - TANH | cbr(8, 1) | cbr(8, 1)}",
            [(8, 8), (8, 16)],
        ),
        # channels of one gradient, the same gradient, a gradient of more than the convolution
        ("CONCAT{CONV(8, 1) | CONV(8, 1)}", []),
        ("ADD{CONV(8, 1) | CONV(8, 1)} - RELU", []),
        ("CONCAT{CONV(8, 1) - RELU | CONV(9, 1) - RELU}", []),
    ],
)
def test_whose_gradients_are_merged(
    text: str, filters: list[tuple[int, ...]], however_small: None
) -> None:
    network = program("4@4x4", f"CONV(4, 3) - {text} - CONV(2, 3)")
    assert gradients(network) == filters
    same_answers(network, True)


def test_small_networks_without_bn_stay_steps_at_once() -> None:
    text = "CONCAT{CONV(8, 1) - RELU | CONV(8, 1) - RELU - CONV(4)} - FC(3), SOFTMAX"
    network = program("3@6x6", text)
    assert not gradients(network)
    large = program("64@30x30", text)
    assert gradients(large) and not large.at_once


def test_weights_may_be_shared_with_another_place(however_small: None) -> None:
    """Then their gradients are sums, which are left to be."""
    network = compile_text(
        "input 4@4x4 module m = CONV(8, 1) - RELU\n"
        "net A = CONCAT{m | CONV(8, 1) - RELU | m} - CONV(2, 3)"
    )
    assert not gradients(network)
    same_answers(network, True)


def test_sequences_have_siblings_too() -> None:
    network = compile_text(
        "input 3@9 net A = CONCAT{CONV1D(8, 1) - BN - RELU | CONV1D(8, 1) - BN - TANH} - CONV1D(2)"
    )
    assert families(network) == [16]
    ours, torchs = (of_training(network, t, (3, 9), 2) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = max(float(other.abs().max()), 2.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_an_empty_batch_moves_nothing() -> None:
    model = program("3@4x4", INCEPTION).module(device="cpu", target="triton").train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    y = model(torch.empty(0, 3, 4, 4))
    y.sum().backward()
    assert y.shape == (0, 4, 4, 4)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    for name, value in model.named_buffers():
        torch.testing.assert_close(value, before[name])


def test_a_channel_that_is_no_number_stays_in_its_branch() -> None:
    """Tiles reach over the channels of several; their numbers do not."""
    network = program("3@4x4", "CONCAT{cbr(8, 1) | cbr(8, 1)}")
    model = network.module(device="cpu", target="triton").train()
    weight = next(iter(model.parameters()))
    with torch.no_grad():
        weight.data[3] = float("nan")
    y = model(torch.randn(2, 3, 4, 4))
    assert [c for c in range(16) if y[:, c].isnan().any()] == [3]


@pytest.mark.parametrize("text", [INCEPTION, BOTTLENECK, *TEXTS_WITHOUT_BN])
def test_bytes_are_counted_as_the_kernels_touch_them(text: str, however_small: None) -> None:
    network = program("3@6x4", f"{text} - GAP - FC(3), SOFTMAX", bias=True)
    assert gradients(network)
    agree(step(network), list(launch_moves(network.fused, network.triton, BATCH, HALF)))


def test_less_is_moved() -> None:
    network = program("64@8x8", f"CONV(64, 3) - {INCEPTION} - GAP - FC(3), SOFTMAX")
    plain = without(network, "merge_siblings")
    x = 64 * 64 * 32 * 2  # bytes of the input that they share
    saved = plain.traffic(32, "bf16").total - network.traffic(32, "bf16").total
    # read twice less for outputs and for gradients of weights, and twice less written and read back
    assert 7 * x < saved < 8 * x


#: a module of GoogLeNet as published
INCEPTION_2014 = (
    "CONCAT{ cr(16, 1) | cr(24, 1) - cr(32, 3) | cr(8, 1) - cr(8, 5) | POOL(3, S=1, P=1) - cr(8, 1)"
    " }"
)


def published(text: str, shape: str = "64@30x30") -> Network:
    return compile_text(
        f"input {shape} block cr(k, f) = CONV(k, f) - RELU net Example = CONV(64, 3) - {text}"
        " - CONV(8, 1) - GAP - FC(3), SOFTMAX"
    )


def test_with_biases_one_product_makes_all_and_nothing_is_copied_but_parameters() -> None:
    network = published(INCEPTION_2014)
    assert families(network) == [48]
    launches = network.triton.launches
    assert not [x for x in launches if x.nest == "copy_slice" and not x.epilogue]
    stacks = [(x.part, x.arguments["end3"].text) for x in launches if x.nest == "stack"]
    parts = (Part.INFERENCE, Part.FORWARD)
    assert stacks == [(part, str(48 * each)) for part in parts for each in (64, 1)]
    plain = without(network, "merge_siblings")
    x, parameters = 64 * 900 * 32 * 2, 48 * (64 * 2 + 4)
    saved = (
        plain.traffic(32, "bf16").parts["forward"] - network.traffic(32, "bf16").parts["forward"]
    )
    assert saved == 2 * x - 2 * parameters


def test_at_inference_there_are_no_more_launches_and_the_same_answers() -> None:
    network = published(INCEPTION_2014)
    plain = without(network, "merge_siblings")
    counts = [
        sum(launch.part is Part.INFERENCE for launch in x.triton.launches) for x in (network, plain)
    ]
    assert counts[0] == counts[1]
    moves = [
        sum(m.total for m in launch_moves(x.inference, x.triton, 2, HALF, [Part.INFERENCE]))
        for x in (plain, network)
    ]
    parameters = 48 * (64 * 2 + 4)
    assert moves[0] - moves[1] == 2 * (64 * 900 * 2 * HALF) - 2 * parameters


@pytest.mark.parametrize("text", TEXTS_WITHOUT_BN)
def test_kernels_infer_as_in_torch(text: str, however_small: None) -> None:
    network = program("3@6x4", text, bias=True)
    ours, torchs = (network.module(device="cpu", target=t).eval() for t in ("triton", "torch"))
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6, 4)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-6)


def test_a_concat_lies_behind_the_rest_of_its_first_branch() -> None:
    places = published(INCEPTION_2014).fused.places
    (wide,) = {places.root(v) for v in places.of if v.type.channels == 48 and "bits" not in v.name}
    inside = [v for v in places.of if places.root(v) == wide]
    assert wide.type.channels == 24 + 8 + 16 + 32 + 8 + 8
    # of the family all and each, the other branches, the CONCAT
    found = sorted((places.start(v), v.type.channels) for v in inside)
    assert found == [(0, 24), (0, 48), (24, 8), (32, 16), (32, 64), (48, 32), (80, 8), (88, 8)]


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        # to copy one costs twice its channels, less than another pass over the input
        ("CONCAT{ POOL(3, S=1, P=1) | cr(16, 1) | cr(24, 1) - cr(8, 3) }", [40]),
        ("CONCAT{ POOL(3, S=1, P=1) | cr(40, 1) | cr(24, 1) - cr(8, 3) }", []),
        ("CONCAT{ POOL(3, S=1, P=1) | cr(24, 1) | cr(24, 1) }", []),
        # a result is a tensor of its own, as is what a kernel without strides reads
        ("CONCAT{ cr(40, 1) | cr(24, 1) as t - cr(8, 3) } , SOFTMAX output t = @t", []),
        ("CONCAT{ cr(40, 1) | cr(24, 1) - LRN }", []),
        # more than an activation belongs into the epilogue
        ("ADD{ cr(16, 1) | cr(16, 1) }", []),
        ("CONCAT{ cr(16, 1) - POOL | cr(16, 1) - POOL }", []),
        ("CONCAT{ cr(16, 1) - DROPOUT | cr(16, 1) - DROPOUT }", []),
        # two families; another activation for each; none
        ("ADD{ CONCAT{ cr(8, 1) | cr(16, 1) - cr(8, 3) } | ADD{ cr(16, 3) | cr(16, 3) } }", [24]),
        ("CONCAT{ CONV(16, 1) - TANH | cr(16, 1) }", []),
        ("CONCAT{ CONV(16, 1) | CONV(16, 1) - CONV(8, 3) }", []),
    ],
)
def test_whose_activations_are_merged(text: str, filters: list[int]) -> None:
    head = "" if "output" in text else " - CONV(8, 1) - GAP - FC(3), SOFTMAX"
    network = compile_text(
        "input 64@30x30 block cr(k, f) = CONV(k, f) - RELU"
        f" net Example = CONV(64, 3) - {text}{head}"
    )
    assert families(network) == filters


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_stacked_numbers_lie_one_behind_the_other(count: int) -> None:
    sizes = (3, 1100, 1, 1024, 7, 2048, 5, 1023, 1)[:count]
    vectors: list[Tensor] = [torch.randn(size) for size in sizes]
    (made,) = run(Stack(), *vectors)
    torch.testing.assert_close(made, torch.cat(vectors), rtol=0, atol=0)


def test_what_lies_there_already_is_not_stacked_again() -> None:
    vectors: list[Tensor] = [torch.randn(size) for size in (3, 1100, 5, 9, 4)]
    (made,) = run(Stack((1, 4)), *vectors)
    starts = (0, 3, 1103, 1108, 1117)
    for number, (start, vector) in enumerate(zip(starts, vectors, strict=True)):
        found = made[start : start + len(vector)]
        # what no kernel has written is NaN here
        assert torch.equal(found, vector) if number in (1, 4) else found.isnan().all()
