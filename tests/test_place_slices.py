"""Branches of CONCATs in the tensor they are concatenated in: what is copied still, and answers."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from convdsl.codegen.launches import Part
from convdsl.codegen.traffic import STEP, launch_moves
from convdsl.compiler import Network, compile_text
from convdsl.ir.graph import Place, Places
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.printer import print_graph
from convdsl.ir.types import TensorType
from convdsl.ir.verify import GraphError, verify
from convdsl.ops._conv_gradients import ConvGradInput
from convdsl.ops.conv import Conv
from convdsl.passes.plan_memory import plan
from tests.conv_driver import operands
from tests.empty_cache import empty_cache
from tests.kernel_driver import launch_all, node_of, run, stored
from tests.test_random_programs import check, numbers
from tests.test_traffic import BATCH, HALF, agree, step


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """Generated files go to a folder of their own."""
    with empty_cache():
        yield


@pytest.fixture
def unaligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices start anywhere, so that programs may be small."""
    monkeypatch.setattr("convdsl.passes.place_slices.ALIGNMENT", 1)


def program(shape: str, text: str) -> Network:
    return compile_text(f"input {shape}\nnet Example = {text}\n")


def copies(network: Network, *parts: Part) -> int:
    """Launches that do nothing but copy channels."""
    return sum(
        launch.nest == "copy_slice" and launch.epilogue is None
        for launch in network.triton.launches
        if launch.part in parts
    )


#: shape, program, copies that stay forward and backward (to inputs too)
PROGRAMS = {
    "convolutions, some with a pooling in their kernel": (
        "3@6x7",
        "CONCAT{CONV(5) - RELU - POOL | CONV(17, S=2) - RELU6 - CROP(3) | POOL} - CONV(4)",
        (0, 0),
    ),
    "grouped, dilated and strided convolutions": (
        "4@7x6",
        "CONCAT{CONV(6, groups=2, S=2) | CONV(5, F=3, dilation=2, P=2, S=2) - TANH} - CONV(3, F=1)",
        (0, 0),
    ),
    "transposed convolutions": (
        "3@4x5",
        "CONCAT{UPCONV(4) | UPCONV(3, F=3, S=2, P=1, output_padding=1) - TANH} - CONV(3)",
        (0, 0),
    ),
    "behind batch normalisation": (
        "3@5x4",
        "CONCAT{CONV(4, bias=false) - BN - RELU | CONV(3) - BN | POOL(3, S=1, P=1) - CONV(2) - BN}"
        " - CONV(4, F=1) - BN",
        (0, 0),
    ),
    "poolings of every kind": (
        "3@6x6",
        "CONV(4) - CONCAT{POOL(3, S=2, P=1) | AVGPOOL | L2POOL | SUMPOOL} - CONV(2)",
        (1, 0),  # the gradient of L2POOL reads its output by a kernel without strides
    ),
    "CHPOOL, whose rows are other rows": (
        "6@4x4",
        "CONV(6) - CONCAT{CHPOOL(2) | CHPOOL(2, mode=avg) | RELU} - CONV(2)",
        (2, 2),
    ),
    "pointwise, of one operand and more": (
        "4@5x3",
        "CONCAT{SIGMOID | ADD{TANH | ID} | PRELU | DROPOUT(0.5) | MUL{ID | GAP - SIGMOID}}"
        " - CONV(2)",
        (0, 0),
    ),
    "an input, and the same value twice": (
        "3@4x4",
        "CONCAT{ID | TANH as t | @t} - CONV(2)",
        (2, 0),
    ),
    "a value in two places": (
        "3@4x4",
        "CONV(4) as a - TANH as b - CONCAT{@a | @b} as c - CONV(3) - CONCAT{ID | @b | @c}",
        (1, 0),
    ),
    "one in another": (
        "3@5x5",
        "CONCAT{CONCAT{CONV(4) - RELU | CONV(2)} | CONCAT{TANH | CONCAT{POOL(3, S=1, P=1) | ELU}}}"
        " - CONV(3)",
        (0, 0),
    ),
    "densely connected": (
        "3@5x5",
        "CONV(4) as a - CONV(3) - RELU as b - CONCAT{@a | @b} as c - CONV(3, F=1) - BN - RELU as d"
        " - CONCAT{@c | @d} - CONV(2)",
        (0, 0),
    ),
    "normalised by those who load it": (
        "8@3x4",
        "CONV(8) as a - CONCAT{@a | @a - BN - RELU - CONV(8, F=1) | @a - BN - RELU - DWCONV"
        " | @a - TANH}"
        " - CONV(4, F=1) - BN",
        (0, 0),
    ),
    "cropped, as in U-Net": (
        "2@12x12",
        "CONV(4) - RELU as e - POOL - CONV(5) - RELU - UPCONV(4) - CROP(10) as u"
        " - CONCAT{@e - CROP(10) | ID} - CONV(3)",
        (0, 0),
    ),
    "padded": ("3@4x4", "CONCAT{CONV(4, P=0) - PAD(1) | TANH} - CONV(2)", (0, 0)),
    "vectors": ("5", "FC(6) - CONCAT{FC(4) - RELU | TANH | FC(3)} - FC(2)", (2, 1)),
    "sequences": ("3@9", "CONCAT{CONV1D(4) - RELU | TANH | POOL(3, S=1, P=1)} - CONV1D(3)", (0, 0)),
    "a branch that is an output too": (
        "3@4x4",
        "CONCAT{CONV(4) as a | CONV(3)} - CONV(2)\noutput side = @a - ID",
        (1, 0),
    ),
    "branches that others read by kernels without strides": (
        "4@4x4",
        "CONV(4) as a - CONCAT{@a | @a - LRN | @a - DWCONV | @a - UPSAMPLE - POOL}",
        (2, 1),
    ),
}


@pytest.mark.parametrize("without", [(), ("fuse_epilogues",), ("drop_dead", "recompute_masks")])
@pytest.mark.parametrize("name", PROGRAMS)
def test_answers_are_those_of_the_oracle(
    name: str, without: tuple[str, ...], unaligned: None
) -> None:
    shape, text, _ = PROGRAMS[name]
    net = replace(program(shape, text), without=without)
    assert net.fused.places.of
    check(net, numbers(net.graph, batch=2, seed=0))


@pytest.mark.parametrize("name", PROGRAMS)
def test_bytes_are_counted_as_the_kernels_touch_them(name: str, unaligned: None) -> None:
    network = program(*PROGRAMS[name][:2])
    counted = list(
        launch_moves(network.fused, network.triton, BATCH, HALF, (*STEP, Part.TO_INPUTS))
    )
    agree(step(network, to_inputs=True), counted)


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_what_must_be_is_copied(name: str, unaligned: None) -> None:
    shape, text, (forward, backward) = PROGRAMS[name]
    network = program(shape, text)
    assert copies(network, Part.FORWARD) == forward
    assert copies(network, Part.BACKWARD, Part.TO_INPUTS) == backward
    off = replace(network, without=("place_slices",))
    assert copies(off, Part.FORWARD) > forward


def test_slices_start_at_whole_vectors() -> None:
    def places(text: str) -> dict[str, Place]:
        return {v.name: p for v, p in program("3@4x4", text).fused.places.of.items()}

    assert {p.start for p in places("CONCAT{CONV(8) | CONV(16) | CONV(8)}").values()} == {0, 8, 24}
    # the rows of 25 channels start anywhere
    assert not places("CONCAT{CONV(8) | CONV(16) | CONV(1)}")
    # the last starts behind 12 channels
    found = places("CONCAT{CONV(8) - TANH | CONV(4) - TANH | CONV(4) - TANH}")
    assert [*found] == ["concat_0_tanh", "concat_1_tanh"]
    # wholes lie in others where vectors start too
    nested = places("CONCAT{CONCAT{CONV(8) | CONV(8)} | CONV(4) | CONCAT{CONV(8) | CONV(4)}}")
    wholes = {place.whole.name: name for name, place in nested.items() if name[:2] != "d_"}
    assert wholes == {"concat_0_concat": "concat_0_concat_1_conv", "concat": "concat_1_conv"}


def test_inference_places_slices_too(unaligned: None) -> None:
    network = program("3@4x4", "CONCAT{CONV(4) - RELU | POOL(3, S=1, P=1)} - CONV(2)")
    assert len(network.inference.places.of) == 2
    assert copies(network, Part.INFERENCE) == 0


def test_a_tensor_that_comes_back_without_its_strides_will_do(unaligned: None) -> None:
    """What is saved are whole tensors: hooks may store them anywhere and bring back copies."""
    network = program("3@4x4", "CONCAT{SIGMOID | CONV(4) - RELU} - TANH")
    model = network.module(device="cpu", target="triton")
    x = torch.randn(2, 3, 4, 4, requires_grad=True)

    def packed(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape).copy_(tensor)

    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        y = model(x)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_empty_batch(unaligned: None) -> None:
    network = program("3@4x4", "CONCAT{CONV(4) - RELU | TANH | POOL(3, S=1, P=1)} - CONV(2)")
    model = network.module(device="cpu", target="triton")
    x = torch.empty(0, 3, 4, 4, requires_grad=True)
    y = model(x)
    assert y.shape == (0, 2, 4, 4)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_memory_holds_the_whole_from_its_first_part_on_and_no_part_twice() -> None:
    network = program("8@16x16", "CONCAT{CONV(8) - SIGMOID | CONV(8) - SIGMOID} - CONV(8)")
    made = plan(network.fused, batch=4)
    slots = {slot.value.name: slot for slot in made.slots}
    assert slots["concat"].first == 0 and slots["concat"].last >= len(network.fused.nodes)
    assert not {v.name for v in network.fused.places.of} & slots.keys()
    before = plan(replace(network, without=("place_slices",)).fused, batch=4)
    assert made.saved < before.saved and made.live_peak < before.live_peak


def test_printing_says_where_a_value_lies() -> None:
    text = print_graph(program("3@4x4", "CONCAT{CONV(8) | CONV(16)}").fused)
    assert "%concat_1_conv: 16@4x4 in %concat[8:24] = conv(" in text


@pytest.mark.parametrize(
    ("whole", "start", "message"),
    [("concat", 9, "ends outside"), ("conv", 0, "ends outside"), ("pool", 0, "whole's rows")],
)
def test_verify_refuses_places_that_do_not_fit(whole: str, start: int, message: str) -> None:
    text = "CONCAT{CONV(8) - TANH | CONV(8) - TANH} - POOL as pool - CONV(2) as conv"
    graph = program("3@4x4", text).fused
    values = {v.name: v for node in graph.nodes for v in node.outputs}
    part = next(iter(graph.places.of))
    places = Places({part: Place(values[whole], start)})
    with pytest.raises(GraphError, match=message):
        verify(replace(graph, places=places), "test")
    with pytest.raises(GraphError, match="leaves the graph"):
        verify(replace(graph, places=Places({values["conv"]: Place(values["conv"], 0)})), "test")


@triton.jit
def sum_of_four(acc, offsets, column, mask, aux, seed):
    for i in tl.static_range(4):
        acc += tl.load(aux[i] + offsets, mask=mask, other=0.0)
    return acc * (column % 120 + 1)


@pytest.mark.parametrize("backward", [False, True])
def test_both_halves_of_a_large_tile_are_stored_in_the_slice(backward: bool) -> None:
    """And nothing beside it; its operand is a slice too."""
    layer = Conv(120, kernel=(3, 3))
    x, (weight, bias), dy = operands(layer, (120, 3, 4), 2, torch.float32)
    geometry = layer.geometry(TensorType((120, 3, 4)))
    op, x = (ConvGradInput(geometry), dy) if backward else (layer, x)
    parameters = [weight] if backward else [weight, bias]
    node = node_of(op, [x], parameters)
    (launch,) = op.schedule(node, Tail(node.output)).launches
    large = {**launch.arguments, "BLOCK_M": 128, "BLOCK_N": 128}
    given, wide = torch.randn(2, 3, 4, 150), torch.full((2, 3, 4, 160), float("nan"))
    given[..., 9:129] = stored(x)
    tensors = {node.inputs[0]: given[..., 9:129], node.output: wide[..., 16:136]}
    tensors |= dict(zip(node.parameters, (stored(weight), bias), strict=False))
    others = tuple(torch.randn(2, 3, 4, 120) for _ in range(5))
    one = Schedule((replace(launch, arguments=large, grid=("1", "1")),))
    launch_all(one, tensors, 2, torch.float32, epilogue=sum_of_four, aux=others)
    (plain,) = run(op, x, parameters=parameters)
    expected = (stored(plain) + sum(others[:4])) * torch.arange(1.0, 121.0)
    torch.testing.assert_close(wide[..., 16:136], expected, rtol=1e-5, atol=1e-2)
    assert wide[..., :16].isnan().all() and wide[..., 136:].isnan().all()
