"""Masks of one bit: where they are kept, and that gradients do not change by it."""

from dataclasses import replace

import pytest
import torch

import convdsl
from convdsl.ir.group import Group
from convdsl.ir.types import DType, TensorType
from tests.test_random_programs import check, numbers

BLOCK = "input 8@5x3 net Block = ADD{ CONV(8) - BN | ID } - RELU - CONV(16, 1) - LEAKY_RELU"


@pytest.mark.parametrize("without", [(), ("fuse_epilogues",), ("pack_masks",), ("drop_dead",)])
@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        "input 16 net Vectors = FC(24) - RELU - FC(8) - LEAKY_RELU(slope=0.3) - FC(3), SOFTMAX",
        "input 8@40 net Sequence = CONV1D(16) - RELU - POOL - CONV1D(8) - RELU",
        # a pooling makes what the gradient asks of, and channels that fill no bytes
        "input 8@6x6 net Pooled = CONV(8) - RELU - POOL - CONV(12) - RELU - GAP",
        # the mask of an input's own activation, and one that two gradients read
        "input 8@3x3 net Two = RELU as t - CONCAT{ CONV(8) | @t } - RELU - CONV(8)",
        # groups whose channels are no whole bytes, and some whose are
        "input 4@4x3 net Groups = CONV(8, groups=2) - RELU - CONV(24, groups=2) - RELU - CONV(2)",
        "input 4@9 net Groups = CONV1D(8, groups=2) - RELU - LRN(3) - CONV1D(32, groups=4) - RELU"
        " - CONV1D(2)",
        "input 4@3x2 net Groups = UPCONV(8, groups=2) - RELU - UPCONV(16, groups=2) - RELU - FC(2)",
        "input 4@5x4 net Depthwise = DWCONV(multiplier=2) - RELU - DWCONV(multiplier=3) - RELU",
    ],
)
def test_gradients_are_those_of_the_oracle(text: str, without: tuple[str, ...]) -> None:
    net = replace(convdsl.compile_text(text), without=without)
    for batch in (3,) if without else (1, 3):
        check(net, numbers(net.graph, batch=batch, seed=batch))


def test_the_backward_pass_reads_bits_in_place_of_maps() -> None:
    net = convdsl.compile_text(BLOCK)
    plain = replace(net, without=("pack_masks",))
    bits = [v for v in net.fused.saved if v.type.dtype is DType.BIT]
    assert [v.type.shape for v in bits] == [(8, 5, 3), (16, 5, 3)]
    assert net.traffic(64, "bf16").total < plain.traffic(64, "bf16").total
    assert net.plan(64).saved < plain.plan(64).saved
    for node in net.fused.nodes:
        if isinstance(node.op, Group):
            assert all(bit.output in node.outputs for bit in node.op.bits)


def test_a_bit_takes_the_eighth_of_a_byte() -> None:
    assert DType.BIT.bytes(TensorType((16, 3, 3), DType.BIT).elements, 2) == 18


@pytest.mark.parametrize("layer", ["RELU", "LEAKY_RELU(slope=0.5)"])
def test_zeros_infinities_and_nan_get_the_gradients_of_torch(layer: str) -> None:
    net = convdsl.compile_text(f"input 8@1x1 net Edge = {layer}")
    edge = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-30, -1e-30, 2.0])
    found = []
    for target in ("triton", "torch"):
        x = edge.reshape(1, 8, 1, 1).clone().requires_grad_()
        net.module(device="cpu", target=target)(x).backward(torch.full((1, 8, 1, 1), 3.0))
        assert x.grad is not None
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)
