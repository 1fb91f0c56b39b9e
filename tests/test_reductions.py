"""Sums over rows that begin in other kernels' epilogues: batch statistics and gradient sums.

Every program is trained for a step by the kernels, with the sums in epilogues and by kernels of
their own, and compared with plain PyTorch in float64: loss, gradients and running statistics.
"""

import pytest
import torch
from torch import nn

from convdsl.compiler import Network, compile, compile_text
from convdsl.ir.group import Group, members
from convdsl.ops._batch_norm import BatchStatistics, GradientSums

#: programs, with how many statistics and how many gradient sums begin in another kernel
PROGRAMS = {
    "odd sizes": (
        "input 3@7x5\nnet = CONV(5) - BN - RELU - CONV(37, F=1) - BN - RELU",
        2,
        2,
    ),
    "more rows than a band": (
        "input 3@13x11\nnet = CONV(6) - BN - RELU - CONV(4) - BN",
        2,
        1,
    ),
    "phases": (
        "input 3@9x8\nnet = CONV(4) - BN - RELU - CONV(6, S=2) - BN - RELU",
        2,
        2,
    ),
    "a phase without pixels": (
        "input 3@1x5\nnet = CONV(4, F=1) - BN - RELU - CONV(6, F=1, S=2) - BN",
        2,
        1,
    ),
    "groups in tiles": (
        "input 4@8x8\nnet = CONV(64, groups=2) - BN - RELU - CONV(64, F=1, groups=2) - BN - RELU",
        2,
        2,
    ),
    "groups that leave their tile": (
        "input 6@8x8\nnet = CONV(12, groups=3) - BN - RELU - CONV(6, F=1, groups=3) - BN",
        0,
        0,
    ),
    "a bias, which the mean takes out": (
        "input 3@6x6\nnet = CONV(4, bias=true) - BN - RELU - CONV(4, bias=true) - BN",
        2,
        1,
    ),
    "two normalised branches": (
        "input 3@8x8\nblock cb(k, s) = CONV(k, S=s) - BN\n"
        "net = cb(4, 1) - RELU - ADD{ cb(6, 2) | cb(6, 2) } - RELU - ADD{ cb(6, 1) | ID } - RELU",
        4,
        4,
    ),
    "another activation": (
        "input 3@8x8\nnet = CONV(4) - BN - GELU - CONV(4) - BN - SIGMOID",
        2,
        2,
    ),
    "one module twice": (
        "input 4@8x8\nmodule m = CONV(4) - BN - RELU\nnet = m - m - CONV(4)",
        1,
        2,
    ),
    "a pooling before and behind": ("input 3@8x8\nnet = POOL - BN - RELU - POOL", 0, 1),
    "depthwise": (
        "input 3@9x7\nnet = CONV(5) - BN - RELU - DWCONV - BN - RELU - DWCONV(S=2) - BN",
        3,
        2,
    ),
    "channels pooled behind": (
        "input 8@9x8\nnet = CONV(8) - BN - MAXOUT(2) - CONV(6) - BN - CHPOOL(3)",
        2,
        0,
    ),
    "a sequence": (
        "input 3@40\nnet = CONV1D(4) - BN - RELU - CONV1D(6, S=2) - BN",
        2,
        1,
    ),
}


def begun(network: Network, kind: type) -> int:
    """Layers whose reduction of a kind is part of a group; siblings have one together."""
    return sum(
        len(member.op.layers(member)) if isinstance(member.op, BatchStatistics) else 1
        for node in network.fused.all_nodes
        if isinstance(node.op, Group)
        for member in members(node)[1:]
        if isinstance(member.op, kind)
    )


def trained(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and statistics after one training pass."""
    x = x.clone().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    grads = {f"d {k}": p.grad for k, p in model.named_parameters()}
    return {"y": y.detach(), "d x": x.grad, **grads, **dict(model.named_buffers())}


def made_of(text: str) -> Network:
    return compile_text(text, defaults=["CONV(bias=false)", "CONV1D(bias=false)"])


def off(text: str) -> Network:
    whole = made_of(text)
    passes = ("recompute_masks", "fuse_epilogues")
    return Network(whole.source, whole.program, whole.lowered, passes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_is_torchs(name):
    text, statistics, sums = PROGRAMS[name]
    network = made_of(text)
    assert begun(network, BatchStatistics) == statistics
    assert begun(network, GradientSums) == sums
    torch.manual_seed(0)
    models = [network.module("cpu", target="torch", dtype=torch.float64).double()]
    models += [n.module("cpu", target="triton") for n in (network, off(text))]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    x = torch.randn(5, *network.graph.inputs[0].type.shape, dtype=torch.float64) + 0.3
    expected, *others = (trained(m, x.to(next(m.parameters()).dtype)) for m in models)
    for ours in others:
        for key, theirs in expected.items():
            # of a bias before BN a sum that is zero, of summands as large as its weight's are
            parts = (theirs, expected.get(key.replace(".bias", ".weight"), theirs))
            scale = max(1.0, *(part.abs().max().item() for part in parts))
            assert (ours[key] - theirs).abs().max().item() < 3e-5 * scale, key


def test_statistics_are_of_the_numbers_that_are_stored():
    """In half precision: those the next kernel reads, not those in the registers."""
    network = compile_text("input 8@6x6\nnet = CONV(16, bias=true) - BN(momentum=1.0)")
    torch.manual_seed(0)
    model = network.module("cpu", target="triton", dtype=torch.float16)
    with torch.no_grad():
        model.get_parameter("conv.bias").add_(30.0)  # where float16 has steps of 1/64
    x = torch.randn(4, 8, 6, 6)
    model(x)
    weight, bias = (model.get_parameter(f"conv.{k}").half().float() for k in ("weight", "bias"))
    y = nn.functional.conv2d(x.half().float(), weight, bias, padding=1).half().double()
    mean = model.get_buffer("bn.running_mean").double()
    assert (mean - y.mean((0, 2, 3))).abs().max() < 1e-5 * 30
    var = model.get_buffer("bn.running_var").double()
    assert torch.allclose(var, y.var((0, 2, 3)), rtol=1e-3)


def test_two_runs_are_equal_to_the_bit():
    network = made_of(PROGRAMS["two normalised branches"][0])
    torch.manual_seed(0)
    first = network.module("cpu", target="triton")
    second = network.module("cpu", target="triton")
    second.load_state_dict(first.state_dict())
    x = torch.randn(6, 3, 8, 8)
    for one, other in zip(trained(first, x).values(), trained(second, x).values(), strict=True):
        assert torch.equal(one, other)


def test_nan_reaches_its_channel_only():
    model = compile_text("input 3@6x6\nnet = CONV(4, F=1) - BN").module("cpu", target="triton")
    with torch.no_grad():
        model.get_parameter("conv.weight")[2] = float("nan")
    y = model(torch.randn(3, 3, 6, 6))
    assert y[:, 2].isnan().all()
    assert not y[:, [0, 1, 3]].isnan().any()


def test_every_statistic_of_resnet50_begins_in_another_kernel():
    network = compile("networks/resnet50.cnn")
    assert begun(network, BatchStatistics) == 53
    assert begun(network, GradientSums) == 53


def test_the_shortcut_of_a_block_is_normalised_where_it_is_added():
    network = compile("networks/resnet50.cnn")
    titles = [node.op.title for node in network.fused.nodes]
    assert titles.count("normalize_normalize_add_relu") == 4
    assert "normalize" not in titles
