"""Loop nests that take boxes of tensor descriptors: against float64, and where they may serve."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

import convdsl.kernels
from benchmarks.aot.table import TRITON
from convdsl.codegen.launches import Part
from convdsl.codegen.traffic import launch_moves
from convdsl.compiler import compile_text
from convdsl.ir.choices import Choices, key_of, product_of
from convdsl.ir.launch import Nest, Tail
from convdsl.ir.op import Layer, Op
from convdsl.ir.tile import Tile
from convdsl.ir.types import TensorType
from convdsl.ops import _boxed
from convdsl.ops._conv_gradients import ConvGradInput
from convdsl.ops._tiles import PERSISTENT, STEM, SWAPPED, VARIANTS
from convdsl.ops.conv import Conv
from convdsl.ops.conv1d import Conv1d
from convdsl.ops.fc import Fc, FcGradInput
from convdsl.ops.upconv import UpConv
from convdsl.runtime.load import load_text
from convdsl.runtime.triton_support import boxes
from convdsl.tuning import search
from convdsl.tuning.build import TARGETS, build_all, triton_version
from convdsl.tuning.candidates import variants
from convdsl.tuning.check import Operands, is_right
from convdsl.tuning.plan import kernels
from tests.conv_driver import TOLERANCE, assert_close, operands, oracle
from tests.empty_cache import empty_cache
from tests.kernel_driver import meaning, node_of, run
from tests.test_prologues import of_training
from tests.test_traffic import HALF, agree, step
from tests.test_tune import MACHINE
from tests.variants import SMALL, with_variants

NESTS = {SWAPPED: Nest("conv_swapped", "conv_swapped")}
NESTS[PERSISTENT] = Nest("rows_persistent", "rows_persistent")

#: layer, input, batch: boxes that the batch and the channels do not fill, odd maps
CASES: list[tuple[str, Layer, tuple[int, ...], int]] = [
    (SWAPPED, Conv(24), (32, 4, 2), 5),
    (SWAPPED, Conv(16, (5, 3)), (24, 3, 4), 2),
    (SWAPPED, Conv(16, pad=((2, 0), (1, 3)), bias=False), (16, 4, 6), 1),
    (SWAPPED, Conv(16, (2, 2), pad="valid", dilation=(2, 1)), (48, 4, 3), 2),
    (SWAPPED, Conv(48, (1, 3)), (16, 1, 16), 5),
    (SWAPPED, Conv(16, (1, 1), pad=((1, 1), (1, 1))), (16, 2, 2), 2),
    (SWAPPED, Conv1d(16, (3,)), (16, 12), 2),
    (SWAPPED, Conv(16), (16, 2, 2), 0),
    (SWAPPED, UpConv(24, (3, 3), (1, 1)), (16, 2, 3), 2),
    (PERSISTENT, Conv(24, (1, 1)), (32, 5, 3), 3),
    (PERSISTENT, Conv(16, (1, 1), bias=False), (48, 1, 1), 2),
    (PERSISTENT, Conv1d(48, (1,)), (24, 7), 1),
    (PERSISTENT, Fc(32), (24,), 3),
    (PERSISTENT, Fc(16, bias=False), (48,), 37),
    (PERSISTENT, Conv(16, (1, 1)), (16, 2, 2), 0),
]
NAMES = [f"{variant}-{layer.title}-{place}" for place, (variant, layer, *_) in enumerate(CASES)]


def by_boxes(op: Op, x: Tensor, parameters: Sequence[Tensor], variant: str) -> Tensor:
    """What ``op`` makes by a variant where it serves: where channels are of the right number."""
    tile = replace(SMALL, variant=variant)
    node = node_of(op, [x], parameters)
    (launch,) = op.schedule(node, Tail(node.output, tile=tile)).launches
    fits = x.shape[1] % 16 == 0
    assert (launch.nest == NESTS[variant]) == fits
    assert launch.product is not None and (variant in launch.product.variants) == fits
    return run(op, x, parameters=parameters, tile=tile)[0]


def to_input(layer: Layer, x: TensorType) -> Op:
    """The gradient of a layer to its input."""
    if isinstance(layer, Fc):
        return FcGradInput(x.elements)
    if isinstance(layer, UpConv):
        return Conv(x.channels, layer.kernel, layer.stride, "valid", bias=False)
    assert isinstance(layer, Conv | Conv1d)
    return ConvGradInput(layer.geometry(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("variant", "layer", "shape", "n"), CASES, ids=NAMES)
def test_forward_and_gradient_to_the_input(
    variant: str, layer: Layer, shape: tuple[int, ...], n: int, dtype: torch.dtype
) -> None:
    x, parameters, dy = operands(layer, shape, n, dtype)
    y, (dx, *_) = oracle(layer, x, parameters, dy)
    assert_close(by_boxes(layer, x, parameters, variant), y, TOLERANCE[dtype])
    made = by_boxes(to_input(layer, TensorType(shape)), dy, parameters[:1], variant)
    assert made.dtype == dtype
    assert_close(made, dx, TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("variant", "layer"), [(SWAPPED, Conv(16)), (PERSISTENT, Conv(16, (1, 1)))]
)
def test_nan_goes_where_its_windows_are(variant: str, layer: Conv) -> None:
    x, parameters, _ = operands(layer, (16, 5, 4), 2, torch.float32)
    x[1, 3, 2, 2] = float("nan")
    parameters[0][7, 2] = float("nan")
    (y,) = meaning(layer, x.double(), *(p.double() for p in parameters))
    made = by_boxes(layer, x, parameters, variant)
    assert 0 < y.isnan().sum() < y.numel()
    assert torch.equal(made.isnan(), y.isnan())


@triton.jit
def wide_offsets(acc, offsets, column, mask, aux, seed):  # type: ignore[no-untyped-def]
    tl.static_assert(offsets.dtype == tl.int64)
    return acc


@pytest.mark.parametrize(
    ("variant", "layer", "channels"),
    [(SWAPPED, Conv(16), 16), (PERSISTENT, Conv(16, (1, 1)), 16), (STEM, Conv(16), 3)],
)
def test_tensors_may_have_more_elements_than_32_bits_count(
    variant: str, layer: Conv, channels: int
) -> None:
    x, parameters, _ = operands(layer, (channels, 2, 2), 1, torch.float32)
    tile = replace(SMALL, variant=variant)
    run(layer, x, parameters=parameters, epilogue=wide_offsets, tile=tile)


@pytest.mark.parametrize(
    "program",
    [
        "input 16@6x6 net N = CONV(16, S=2)",
        "input 16@6x6 net N = CONV(16, groups=2)",
        "input 12@6x6 net N = CONV(16)",  # the depth of no whole step
        "input 16@6x6 net N = CONV(6)",  # rows of the result begin anywhere
        "input 16@6x6 net N = CONV(16) - POOL(2)",
        "input 16@6x6 net N = CONV(16, F=1, S=2)",
        "input 10 net N = FC(16)",
    ],
)
def test_where_no_variant_serves(program: str) -> None:
    network = compile_text(program)
    node = network.fused.nodes[0]
    launch = product_of(node)
    assert launch is not None and variants(launch, MACHINE) == ("",)
    tiles = {key_of(node) or "": replace(SMALL, variant=v) for v in (SWAPPED, PERSISTENT)}
    assert "boxes(" not in network.chosen(Choices(tiles)).triton.text


def test_only_machines_that_copy_boxes_are_asked() -> None:
    launch = product_of(compile_text("input 16@6x6 net N = CONV(16)").fused.nodes[0])
    assert launch is not None
    assert variants(launch, MACHINE) == ("", SWAPPED)
    assert variants(launch, replace(MACHINE, boxes=False)) == ("",)
    assert set(variants(launch, MACHINE)) <= set(VARIANTS)


# ---- in networks: epilogues, statistics, prologues, slices

BLOCK = """
input 16@3x2
net Block = ADD{ CONV(16, bias=false) - BN - RELU - CONV(16, F=1, bias=false) - BN | ID } - RELU
    - CONCAT{ CONV(16, F=1) | CONV(16, F=1x3) } - RELU - GAP - FC(16)
"""


@pytest.fixture
def three_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than there are tiles."""
    monkeypatch.setattr(_boxed, "PROCESSORS", 3)


@pytest.mark.usefixtures("three_processors")
def test_networks_train_as_in_torch() -> None:
    """Statistics of rows past the batch would show, and so would channels made of the border."""
    network = with_variants(compile_text(BLOCK))
    training = Part.FORWARD, Part.BACKWARD, Part.TO_INPUTS
    nests = [launch.nest for launch in network.triton.launches if launch.part in training]
    assert nests.count("conv_swapped") == 4 and nests.count("rows_persistent") == 6
    ours, expected = (
        of_training(network, target, (16, 3, 2), 21) for target in ("triton", "torch")
    )
    for one, other in zip(ours, expected, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_which_program_makes_a_tile_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "input 16@4x4 net N = CONV(32, F=1, bias=false) - BN"
    made = []
    for processors in (1, 4):
        monkeypatch.setattr(_boxed, "PROCESSORS", processors)
        network = with_variants(compile_text(text))
        assert f"min(triton.cdiv(n * 16, 32) * 2, {processors})" in network.triton.text
        made.append(of_training(network, "triton", (16, 4, 4), 3))
    for one, other in zip(*made, strict=True):
        assert torch.equal(one, other)


def test_an_empty_batch() -> None:
    model = with_variants(
        compile_text("input 16@4x4 net N = CONV(16) - RELU - CONV(8, F=1)")
    ).module(device="cpu", target="triton")
    x = torch.randn(0, 16, 4, 4, requires_grad=True)
    y = model(x)
    y.sum().backward()
    assert y.shape == (0, 8, 4, 4) and x.grad is not None and x.grad.shape == x.shape


def test_boxes_are_counted_to_the_byte() -> None:
    text = f"{BLOCK.strip()}, SOFTMAX\n"
    network = with_variants(compile_text(text))
    with empty_cache():
        seen = step(network, batch=3)
    assert {launch.kernel for launch in seen} > {"conv_swapped", "rows_persistent"}
    agree(seen, list(launch_moves(network.fused, network.triton, 3, HALF)))


def test_a_variant_is_the_same_question() -> None:
    network = compile_text(BLOCK)
    keys = [key_of(node) for node in network.fused.all_nodes]
    assert [key_of(node) for node in with_variants(network).fused.all_nodes] == keys


def test_tuning_checks_a_variant_like_any_tile() -> None:
    graph = with_variants(compile_text("input 16@4x4 net N = CONV(16) - RELU")).fused
    part = search.Part.of(graph, graph.nodes[:1])
    assert "conv_swapped[" in part.piece.text
    run = load_text(part.piece.text, "tuned").run
    given = Operands(graph, 3, torch.float32, "cpu")
    assert is_right(graph, part.nodes, part.piece, run, given)


# ---- descriptors


def test_boxes_of_a_tensor() -> None:
    x = torch.zeros(2, 3, 4, 16, dtype=torch.float16)
    made = boxes(x, (2, 3, 4, 16), 16, (2, 1, 4, 16))
    assert made.base is x and made.strides == [192, 64, 16, 1]
    made = boxes(x[..., 8:], (2, 3, 4, 8), 16, (2, 1, 4, 8))
    assert made.base.data_ptr() == x.data_ptr() + 16 and made.strides == [192, 64, 16, 1]


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(99)[3:].view(2, 3, 16),  # memory that begins anywhere
        torch.randn(2, 3, 18)[..., :16],  # rows that do
        torch.randn(0, 3, 16),
    ],
)
def test_what_hardware_cannot_address_is_copied(x: Tensor) -> None:
    made = boxes(x, x.shape, x.stride(-2), (1, 4, 16))
    assert made.base.data_ptr() % 16 == 0 and made.base.data_ptr() != x.data_ptr()
    assert made.strides == [48, 16, 1]
    assert torch.equal(made.base[: len(x)], x)


def test_kernels_make_no_descriptors_themselves() -> None:
    """They would need an allocator, which threads of autograd do not have."""
    for path in Path(next(iter(convdsl.kernels.__path__))).glob("*.py"):
        assert "make_tensor_descriptor" not in path.read_text(encoding="utf-8"), path.name


# ---- ahead of time

BOTTLENECK = """
input 1024@14x14
net B = CONV(256, F=1, bias=false) - BN - RELU - CONV(256, bias=false) - BN - RELU
    - CONV(1024, F=1, bias=false) - BN - RELU
"""


def violations(target: str) -> list[str]:
    """Of the variants' kernels of a block of ResNet-50."""
    network = with_variants(compile_text(BOTTLENECK), Tile(128, 128, 64, 8, 3))
    found = [k for k in kernels(network) if k.nest in ("conv_swapped", "rows_persistent")]
    assert found
    to = TARGETS[target]
    wrong = []
    for (kernel, _), facts in build_all([(kernel, to) for kernel in found]).items():
        name = f"{kernel.nest} {kernel.title}"
        if facts.spills or facts.shared > to.shared_limit:
            wrong.append(f"{name}: {facts}")
        if not getattr(facts, to.product) or facts.mma_sync:
            wrong.append(f"{name} multiplies otherwise: {facts}")
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_variants_spill_nothing_where_hardware_copies_boxes(target: str) -> None:
    if target == "sm_100" and triton_version() != TRITON:
        pytest.skip("tuning drops what spills: some do on Blackwell, with an older Triton")
    assert violations(target) == []
