"""The first convolution of coloured images on padded maps, against float64."""

from dataclasses import replace

import pytest
import torch

from convdsl.codegen.traffic import launch_moves
from convdsl.compiler import compile_text
from convdsl.ir.choices import product_of
from convdsl.ir.launch import Tail
from convdsl.ir.tile import Tile
from convdsl.ir.types import TensorType
from convdsl.ops._conv_gradients import ConvGradWeight
from convdsl.ops._tiles import STEM
from convdsl.ops.conv import Conv
from convdsl.ops.conv1d import Conv1d
from convdsl.tuning.build import TARGETS, Target, build_all
from convdsl.tuning.candidates import variants
from convdsl.tuning.plan import kernels
from tests.conv_driver import TOLERANCE, assert_close, operands, oracle
from tests.empty_cache import empty_cache
from tests.kernel_driver import meaning, node_of, run
from tests.test_prologues import of_training
from tests.test_traffic import HALF, agree, step
from tests.test_tune import MACHINE
from tests.variants import with_variants

TILE = Tile(32, 16, 16, 4, 2, variant=STEM)
TO_WEIGHT = replace(TILE, splits=2)

CASES: list[tuple[Conv | Conv1d, tuple[int, ...], int]] = [
    (Conv(20), (3, 5, 6), 2),
    (Conv(8, (7, 7), (2, 2), bias=False), (3, 9, 8), 1),
    (Conv(5, (2, 3), (3, 2), pad=((1, 0), (0, 2)), dilation=(2, 1)), (3, 8, 7), 3),
    (Conv(4, (2, 2), (4, 4), pad="same"), (3, 9, 9), 2),  # pixels no window reaches
    (Conv(17, (11, 1), (1, 1)), (3, 3, 2), 1),
    (Conv1d(4, (5,), (2,)), (3, 11), 2),
    (Conv(4), (3, 5, 5), 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), CASES)
def test_forward_and_gradient_to_the_weight(
    layer: Conv | Conv1d, shape: tuple[int, ...], n: int, dtype: torch.dtype
) -> None:
    x, parameters, dy = operands(layer, shape, n, dtype)
    y, (_, *to_parameters) = oracle(layer, x, parameters, dy)
    node = node_of(layer, [x], parameters)
    launches = layer.schedule(node, Tail(node.output, tile=TILE)).launches
    assert [launch.nest.function for launch in launches] == ["pad_map", "pad_map", "conv_stem"]
    assert_close(run(layer, x, parameters=parameters, tile=TILE)[0], y, TOLERANCE[dtype])
    op = ConvGradWeight(layer.geometry(TensorType(shape)), bool(layer.bias))
    for made, expected in zip(run(op, x, dy, tile=TO_WEIGHT), to_parameters, strict=True):
        assert_close(made, expected, TOLERANCE[dtype])


def test_nan_goes_where_its_windows_are() -> None:
    """A row of taps is as long as a power of two: numbers behind it must not be looked at."""
    layer = Conv(4)
    x, parameters, dy = operands(layer, (3, 6, 9), 1, torch.float32)
    x[0, 1, 2, 4] = float("nan")
    (y,) = meaning(layer, x.double(), *(p.double() for p in parameters))
    made = run(layer, x, parameters=parameters, tile=TILE)[0]
    assert torch.equal(made.isnan(), y.isnan()) and 0 < y.isnan().sum() < y.numel()
    op = ConvGradWeight(layer.geometry(TensorType((3, 6, 9))), True)
    dw, db = run(op, x, dy, tile=TO_WEIGHT)
    expected, _ = meaning(op, x.double(), dy.double())
    assert torch.equal(dw.isnan(), expected.isnan()) and not db.isnan().any()


@pytest.mark.parametrize("layer", ["CONV(8)", "CONV(8, F=1)", "CONV(8, dilation=2)"])
def test_only_where_it_serves(layer: str) -> None:
    for channels in (1, 3, 4):
        node = compile_text(f"input {channels}@6x6 net N = {layer}").fused.nodes[0]
        launch = product_of(node)
        assert launch is not None
        serves = channels == 3 and layer == "CONV(8)"
        assert variants(launch, replace(MACHINE, boxes=False)) == (("", STEM) if serves else ("",))


STEMMED = """
input 3@7x6
net N = CONV(16, F=3, S=2, bias=false) - BN - RELU - CONV(8, F=1) - GAP - FC(5)
"""


def test_networks_train_as_in_torch() -> None:
    network = with_variants(compile_text(STEMMED))
    nests = [launch.nest for launch in network.triton.launches]
    assert {"conv_stem", "conv_stem_grad_weight", "pad_map"} <= set(nests)
    ours, expected = (of_training(network, t, (3, 7, 6), 3) for t in ("triton", "torch"))
    for one, other in zip(ours, expected, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_padded_maps_are_counted_to_the_byte() -> None:
    for layer in ("CONV(4, F=3)", "CONV(4, F=2, S=3, P=same)"):
        network = with_variants(compile_text(f"input 3@7x6 net N = {layer} - GAP - FC(5), SOFTMAX"))
        with empty_cache():
            seen = step(network)
        agree(seen, list(launch_moves(network.fused, network.triton, 3, HALF)))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_nothing_is_spilled(target: Target) -> None:
    text = "CONV(64, F=7, S=2, P=3, bias=false) - BN - RELU"
    network = with_variants(
        compile_text(f"input 3@224x224 net N = {text}"), Tile(128, 64, 64, 8, 3)
    )
    found = [kernel for kernel in kernels(network) if kernel.nest.startswith("conv_stem")]
    assert {kernel.nest for kernel in found} == {"conv_stem", "conv_stem_grad_weight"}
    for (kernel, _), facts in build_all([(kernel, target) for kernel in found]).items():
        assert facts.spills == 0 and facts.shared <= target.shared_limit, kernel.nest
        assert getattr(facts, target.product), kernel.nest
