"""Operands worked out as they are loaded: products of rows behind pointwise arithmetic.

Programs are trained for a step by the kernels, with prologues and without, on rows and channels
that fill no tile, and compared with torch in float64.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import convdsl
from convdsl.compiler import Network
from convdsl.ir.graph import Node
from convdsl.ir.group import Group, members
from tests.test_random_programs import check, numbers

BOTTLENECK = """
input 24@{size}
default CONV(bias=false)
block cbr(k, f) = CONV(k, f) - BN - RELU
net Block = ADD{{ cbr(10, 1) - cbr(10, 3) - CONV(24, 1) - BN | ID }} - RELU - CONV(70, 1) - BN
"""


def of_training(net: Network, target: str, size: tuple[int, ...], batch: int) -> list[Tensor]:
    """Output, running statistics and gradients of one step in training mode."""
    torch.manual_seed(0)
    model: nn.Module = net.module(device="cpu", target=target).train()
    with torch.no_grad():  # in the order of the axes, which need not be that of memory
        for p in model.parameters():
            p.copy_(torch.rand(p.shape) * 0.7 + 0.3 if p.dim() == 1 else torch.randn(p.shape) * 0.3)
    x = torch.randn(batch, *size, requires_grad=True)
    y = model(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    assert x.grad is not None
    grads = [p.grad for p in model.parameters()]
    return [y.detach(), x.grad, *(g for g in grads if g is not None), *model.buffers()]


@pytest.mark.parametrize("batch", [2, 3])
def test_separable_convolutions_train_as_in_torch(batch: int) -> None:
    net = convdsl.compile_text(
        "input 5@7x6 net A = CONV(9, bias=false) - BN - RELU - SEPCONV(20, 3, bias=false) - BN"
        " - RELU - SEPCONV(6, 3, bias=false) - BN"
    )
    assert {"normalize+relu", "normalize_gradient"} == set(prologues(net))
    ours, torchs = (of_training(net, t, (5, 7, 6), batch) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def prologues(net: Network) -> list[str]:
    """Titles of the chains, forward and backward."""
    groups = [n.op for n in net.fused.all_nodes if isinstance(n.op, Group)]
    return ["+".join(n.op.title for n in chain) for group in groups for chain in group.prologues]


@pytest.mark.parametrize("batch", [2, 5])
@pytest.mark.parametrize("size", ["5x3", "9x7"])
def test_a_bottleneck_trains_as_in_torch(size: str, batch: int) -> None:
    net = convdsl.compile_text(BOTTLENECK.format(size=size))
    height, width = map(int, size.split("x"))
    ours, torchs = (of_training(net, t, (24, height, width), batch) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_what_vanishes_into_prologues() -> None:
    net = convdsl.compile_text(BOTTLENECK.format(size="8x8"))
    # forward and weight gradient of the second 1x1 convolution; the gradients of the three
    # normalisations that stand behind 1x1 convolutions, each for both gradients
    assert sorted(prologues(net)) == 2 * ["normalize+relu"] + 6 * ["normalize_gradient"]
    assert not prologues(replace(net, without=("fuse_prologues",)))


@pytest.mark.parametrize(
    ("text", "chains"),
    [
        # the loss in memory: an output, or what a 3x3 convolution reads
        ("input 8@4x4 net A = BN - RELU", 0),
        ("input 8@4x4 net A = BN - RELU - CONV(8)", 0),
        ("input 8@4x4 net A = SWISH - CONV(8, 1)", 2),
        ("input 8@4x4 net A = SWISH - CONV(8, 1, S=2)", 0),
        ("input 8@4x4 net A = SWISH - CONV(8, 1, groups=2)", 0),
        ("input 8@4x4 net A = SWISH - CONV(8, 1, P=1)", 0),
        ("input 8@9 net A = SWISH - CONV1D(8, 1)", 2),
        # depthwise convolutions of any extent, with padding that stays zero
        ("input 6@5x7 net A = ELU - DWCONV(3)", 2),
        ("input 6@5x7 net A = SWISH - DWCONV(3x2, S=2, P=same, bias=false)", 2),
        ("input 3@5x7 net A = SWISH - DWCONV(3, multiplier=2, dilation=2)", 2),
        ("input 1@5x7 net A = SWISH - DWCONV(1)", 2),
        ("input 6@5x7 net A = SWISH - SEPCONV(4)", 2),
        # a pooling whose windows overlap little
        ("input 6@7x9 net A = SWISH - POOL(3, S=2, P=1)", 1),
        ("input 3@7x9 net A = ELU - POOL", 1),
        ("input 6@11 net A = SWISH - POOL(3, S=2, round=ceil)", 1),
        ("input 6@7x9 net A = SWISH - POOL(3, S=1, P=half)", 0),
        # a product that is pooled in its kernel
        ("input 8@5x6 net A = SWISH - CONV(8, 1) - POOL", 0),
        # one tensor for four readers; the skip's ADD must have it in memory
        ("input 8@4x4 net A = SWISH as t - CONCAT{ CONV(8, 1) | CONV(3, 1) }", 4),
        ("input 8@4x4 net A = SWISH as t - ADD{ CONV(8, 1) | @t }", 0),
        # drops draw the same numbers wherever they are worked out
        ("input 8@4x4 net A = SWISH - DROPOUT(0.4) - CONV(8, 1)", 2),
    ],
)
def test_where_a_prologue_pays(text: str, chains: int) -> None:
    net = convdsl.compile_text(text)
    forward = [title for title in prologues(net) if "gradient" not in title]
    assert len(forward) == chains
    check(net, numbers(net.graph, batch=3, seed=1))


def test_random_numbers_are_those_of_the_separate_kernel() -> None:
    text = "input 8@4x4 net A = SWISH - DROPOUT(0.4) - CONV(8, 1) - DROPOUT(0.5) - GAP"
    net = convdsl.compile_text(text)
    assert any("dropout" in title for title in prologues(net))
    plain = replace(net, without=("fuse_prologues",))
    ours, theirs = (of_training(n, "triton", (8, 4, 4), 3) for n in (net, plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_winners_of_a_pooling_are_those_of_the_map_in_memory(dtype: torch.dtype) -> None:
    """In half precision many of a window are equal: the first of them wins, as if stored."""
    net = convdsl.compile_text("input 6@9x7 net A = SIGMOID - POOL(3, S=2, P=1) - SIGMOID")
    plain = replace(net, without=("fuse_prologues",))
    assert prologues(net) and not prologues(plain)
    found = []
    for one in (net, plain):
        x = torch.linspace(2, 3, 2 * 6 * 9 * 7).view(2, 6, 9, 7).sin().requires_grad_()
        y = one.module(device="cpu", target="triton", dtype=dtype)(x)
        y.sum().backward()
        found.append((y.detach(), x.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "text",
    [
        "CONV(9, bias=false) - BN - RELU - POOL(3, S=2, P=1)",
        "CONV(8, bias=false) - BN - GELU - POOL - CONV(8, bias=false) - BN - POOL(2, round=ceil)",
        "CONCAT{CONV(8, 1) - BN - RELU | CONV(16) - BN - TANH | CONV(8, 1) - BN} - CONV(8) - BN",
    ],
)
def test_gradients_that_are_worked_out_twice(text: str) -> None:
    net = convdsl.compile_text(f"input 5@13x11 net A = {text}", defaults=["CONV(bias=false)"])
    assert any(name.endswith("_summed") for name in values(net))
    plain = replace(net, without=("repeat_gradients",))
    assert not any(name.endswith("_summed") for name in values(plain))
    check(net, numbers(net.graph, batch=3, seed=1))
    ours, torchs = (of_training(net, t, (5, 13, 11), 3) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def values(net: Network) -> list[str]:
    """Names of all that is made, also inside of groups."""
    return [v.name for n in net.fused.all_nodes for member in members(n) for v in member.outputs]


def test_a_gradient_that_somebody_else_reads_is_stored() -> None:
    net = convdsl.compile_text(
        "input 5@8x8 net A = CONV(8, bias=false) - BN as a - CONCAT{POOL - CONV(8) | @a - AVGPOOL}"
    )
    assert not any(name.endswith("_summed") for name in values(net))


def test_nan_of_one_channel_stays_in_its_row_of_the_gradient() -> None:
    net = convdsl.compile_text("input 20@3x3 net A = SWISH - CONV(4, 1, bias=false)")
    assert prologues(net)
    found = []
    for target in ("triton", "torch"):
        torch.manual_seed(0)
        model = net.module(device="cpu", target=target)
        x = torch.randn(2, 20, 3, 3)
        x[0, 19, 0, 0] = float("nan")
        model(x).sum().backward()
        (weight,) = model.parameters()
        assert weight.grad is not None
        found.append(weight.grad)
    assert torch.isnan(found[0]).sum() == 4
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("of", [lambda n: n.inputs, lambda n: n.operands])
def test_nothing_reads_what_vanished(of: Callable[[Node], tuple[object, ...]]) -> None:
    net = convdsl.compile_text(BOTTLENECK.format(size="8x8"))
    made = {v for node in net.fused.all_nodes for v in node.outputs}
    given = {*net.fused.inputs, *net.fused.cotangents, *(p.value for p in net.fused.parameters)}
    assert all(v in made | given for node in net.fused.all_nodes for v in of(node))
