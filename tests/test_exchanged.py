"""Products with exchanged operands: against float64, in networks, and where they are chosen."""

from collections.abc import Sequence

import pytest
import torch

from convdsl.codegen.launches import Part
from convdsl.compiler import Network, compile_text
from convdsl.ir.choices import Choices, key_of, product_of
from convdsl.ir.tile import Tile
from convdsl.ops import _conv_launches
from convdsl.ops.conv import Conv
from tests.conv_driver import TOLERANCE, assert_close, operands, oracle
from tests.kernel_driver import run
from tests.test_prologues import of_training
from tests.variants import with_variants

#: wide enough for exchanged operands, low enough for several tiles on tiny maps
WIDE = Tile(32, 64, 16, 4, 2)

#: layer, input, batch: channels that fill the tile, overhang it, or are of a group
CASES: list[tuple[Conv, tuple[int, ...], int]] = [
    (Conv(64), (5, 4, 3), 3),
    (Conv(72, (3, 2), (2, 1), "same", bias=False), (7, 5, 4), 2),
    (Conv(3, (1, 1)), (3, 3, 5), 2),
    (Conv(128, (3, 3), dilation=(2, 1), groups=2), (4, 4, 3), 2),
    (Conv(64, (1, 1), (2, 2)), (16, 4, 3), 2),
    (Conv(64), (4, 3, 3), 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("layer", "shape", "n"), CASES)
def test_forward(
    layer: Conv,
    shape: tuple[int, ...],
    n: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_conv_launches, "exchanged", lambda tile, tail: True)
    x, parameters, dy = operands(layer, shape, n, dtype)
    y, _ = oracle(layer, x, parameters, dy)
    assert_close(run(layer, x, parameters=parameters, tile=WIDE)[0], y, TOLERANCE[dtype])


def widened(network: Network) -> Network:
    """All products in tiles of 64 columns."""
    nodes = [node for node in network.fused.all_nodes if product_of(node) is not None]
    return network.chosen(Choices({key_of(node) or "": WIDE for node in nodes}))


def exchanges(network: Network, parts: Sequence[Part] = tuple(Part)) -> list[tuple[str, bool]]:
    """Of each launch that could exchange its operands: its nest, and whether it does."""
    return [
        (launch.nest, bool(launch.arguments["EXCHANGED"]))
        for launch in network.triton.launches
        if launch.part in parts and "EXCHANGED" in launch.arguments
    ]


#: statistics, prologues, sums of gradients, a residual; a pooling of the tile; slices of a CONCAT
NETWORKS = [
    """
    input 8@3x2
    net Block = CONV(72, F=1, bias=false) - BN
        - ADD{ RELU - CONV(16, bias=false) - BN - RELU - CONV(72, F=1, bias=false) - BN | ID }
        - RELU - GAP - FC(70)
    """,
    "input 3@6x4 net Pooled = CONV(66) - RELU - POOL(2) - CONV(64) - TANH - GAP - FC(4)",
    """
    input 6@3x4
    net Slices = CONCAT{ CONV(64, F=1) | CONV(72, bias=false) - BN } - RELU - GAP - FC(3)
    """,
]


@pytest.mark.parametrize("text", NETWORKS, ids=["block", "pooled", "slices"])
def test_networks_train_as_in_torch(text: str) -> None:
    network = widened(compile_text(text))
    assert any(yes for _, yes in exchanges(network, (Part.FORWARD,)))
    agree_with_torch(network)


def test_variants_train_as_in_torch() -> None:
    """The stem and the persistent nest, whose static tile this never is."""
    text = "input 3@5x4 net N = CONV(64, bias=false) - BN - RELU - CONV(72, F=1, bias=false) - BN"
    network = with_variants(compile_text(text), WIDE)
    made = exchanges(network, (Part.FORWARD,))
    assert made == [("conv_stem", True), ("rows_persistent", True)]
    agree_with_torch(network)


def agree_with_torch(network: Network) -> None:
    shape = network.fused.inputs[0].type.shape
    ours, expected = (of_training(network, target, shape, 19) for target in ("triton", "torch"))
    for one, other in zip(ours, expected, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("CONV(64, bias=false) - BN - RELU - CONV(64)", [True, False]),  # statistics
        ("CONV(64, bias=false) - BN - RELU - CONV(64, F=1) - BN", [True, True]),  # made as loaded
        ("CONV(64) - RELU - POOL(2)", [True]),
        ("CONV(64) - RELU", [False]),
        ("CONV(64) - RELU - CONV(64)", [False, False]),  # bits are of neighbouring channels
        ("CONV(32, bias=false) - BN", [False]),  # too narrow for a warp group
    ],
)
def test_where_operands_are_exchanged(net: str, expected: list[bool]) -> None:
    network = compile_text(f"input 64@8x8 net N = {net}")
    assert [yes for _, yes in exchanges(network, (Part.FORWARD,))] == expected
    backward = exchanges(network, (Part.BACKWARD, Part.TO_INPUTS))
    assert not any(yes for _, yes in backward)


def test_at_inference_a_normalisation_exchanges_too() -> None:
    network = compile_text("input 64@8x8 net N = CONV(64, bias=false) - BN - RELU")
    assert exchanges(network, (Part.INFERENCE,)) == [("conv_forward", True)]
