"""ADD, MUL, CONCAT and ID against torch: kernels, gradients of repeated branches, refusals."""

import pytest
import torch

import convdsl
from convdsl.ir.builder import Builder
from convdsl.ir.types import DType, TensorType
from convdsl.ops.add import Add
from convdsl.ops.concat import Concat, Slice
from convdsl.ops.conv import Conv
from convdsl.ops.identity import Identity
from convdsl.ops.mul import Mul, PixelSum
from tests.kernel_driver import node_of
from tests.op_driver import autograd, error, forward_backward, kernels, reference, refusal


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


CASES = [
    (Add(), [(2, 3, 4, 5)] * 2),
    (Add(), [(3, 10)] * 4),
    (Add(), [(0, 3, 4, 5)] * 2),
    (Concat(), [(2, 3, 4, 5), (2, 1, 4, 5), (2, 130, 4, 5)]),
    (Concat(), [(3, 10), (3, 1)]),
    (Concat(), [(2, 3, 7), (2, 4, 7)]),
    (Concat(), [(0, 3, 4, 5), (0, 2, 4, 5)]),
    (Identity(), [(2, 3, 4, 5)]),
]


@pytest.mark.parametrize("layer, shapes", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernels_agree_with_torch(layer, shapes, dtype):
    inputs = [x.to(dtype) for x in tensors(*shapes)]
    (expected,) = reference(layer, *(x.double() for x in inputs))
    kinds = [TensorType(shape[1:]) for shape in shapes]
    assert layer.shape(*kinds).shape == expected.shape[1:]
    dy = torch.randn_like(expected).to(dtype)
    (y,), gradients = forward_backward(layer, inputs, dy)
    assert error(y, expected) < (1e-6 if dtype is torch.float32 else 2e-3)
    theirs = autograd(layer, inputs, dy)
    assert len(gradients) == len(theirs) == len(shapes)
    for ours, other in zip(gradients, theirs, strict=True):
        assert error(ours, other) == 0.0


PRODUCTS = [
    [(2, 3, 4, 5)] * 2,
    [(3, 10)] * 4,
    [(2, 3, 7)] * 3,
    [(2, 6, 4, 5), (2, 6)],
    [(2, 6), (2, 6, 4, 5)],
    [(2, 6, 1, 1), (2, 6, 4, 5), (2, 6)],
    [(2, 6, 4, 5), (2, 6), (2, 6, 4, 5), (2, 6)],
    [(2, 3, 7), (2, 3)],
    [(2, 70, 1, 1), (2, 70)],
    [(2, 1, 5, 5), (2, 1)],
    [(1, 5, 37, 41), (1, 5)],
    [(0, 3, 4, 5), (0, 3)],
]


@pytest.mark.parametrize("shapes", PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_products_agree_with_torch(shapes, dtype):
    inputs = [x.to(dtype) for x in tensors(*shapes)]
    rank = max(len(shape) for shape in shapes)
    leaves = [x.double().requires_grad_() for x in inputs]
    expected = torch.ones((), dtype=torch.float64)
    for x in leaves:
        expected = expected * x.reshape(*x.shape, *[1] * (rank - x.dim()))
    assert Mul().shape(*(TensorType(s[1:]) for s in shapes)).shape == expected.shape[1:]
    dy = torch.randn_like(expected).to(dtype)
    theirs = torch.autograd.grad(expected, leaves, dy.double())
    (y,), ours = forward_backward(Mul(), inputs, dy)
    # a gate's gradient sums up to 1517 products, which in 16 bits are rounded factors
    tolerance = 2e-5 if dtype is torch.float32 else 2e-2
    for mine, other in zip((y, *ours), (expected.detach(), *theirs), strict=True):
        assert mine.dtype is dtype
        assert error(mine, other) < tolerance
    exact = [x.double() for x in inputs]
    (y,), ours = forward_backward(Mul(), exact, dy.double(), by=reference)
    for mine, other in zip((y, *ours), (expected.detach(), *theirs), strict=True):
        assert error(mine, other) < 1e-12


@pytest.mark.parametrize("gate_first", [True, False])
def test_a_nan_in_the_gate_spoils_its_channel_alone(gate_first):
    x, gate = tensors((2, 3, 4, 5), (2, 3))
    gate[1, 2] = float("nan")
    operands = (gate, x) if gate_first else (x, gate)
    (y,) = kernels(Mul(), *operands)
    (expected,) = reference(Mul(), *operands)
    assert error(y, expected) == 0.0
    assert y.isnan().sum() == 20 and y[1, 2].isnan().all()


def test_the_sum_over_the_pixels_runs_in_fixed_order():
    a, b = tensors((2, 5, 30, 41), (2, 5, 30, 41))
    op = PixelSum(TensorType((5,)))
    (first,), (second,) = kernels(op, a, b), kernels(op, a, b)
    assert torch.equal(first, second)
    assert error(first, (a.double() * b.double()).sum((2, 3))) < 1e-5


@pytest.mark.parametrize("layer", [Add(), Concat(), Mul()], ids=str)
@pytest.mark.parametrize("times", [2, 3])
def test_a_value_merged_with_itself_gets_every_share(layer, times):
    (x,) = tensors((2, 3, 4, 5))
    leaf = x.double().requires_grad_()
    (y,) = reference(layer, *[leaf] * times)
    dy = torch.randn_like(y).float()
    (expected,) = torch.autograd.grad(y, leaf, dy.double())
    outputs, gradients = forward_backward(layer, [x] * times, dy, same=True)
    assert error(outputs[0], y.detach()) < 1e-6
    assert len(gradients) == 1
    assert error(gradients[0], expected) < 1e-6


@pytest.mark.parametrize("layer", [Add(), Identity()], ids=str)
def test_gradient_of_distinct_branches_costs_no_node(layer):
    inputs = tensors(*[(2, 3)] * (2 if layer == Add() else 1))
    node, build = node_of(layer, inputs), Builder()
    dy = build.value("dy", node.output.type)
    assert layer.gradient(node, dy, build) == dict.fromkeys(node.inputs, dy)
    assert build.nodes == []


def test_add_also_sums_gradients_of_parameters():
    kind = TensorType((4, 3), DType.FLOAT32, batched=False)
    assert Add().infer(kind, kind) == (kind,)


def test_slice_takes_channels():
    (x,) = tensors((2, 6, 3, 4))
    (y,) = kernels(Slice(1, 4), x)
    assert torch.equal(y, x[:, 1:5])
    assert torch.equal(reference(Slice(1, 4), x)[0], y)


def test_add_names_all_shapes_and_a_fix():
    code, message, help = refusal(Add(), (512, 28, 28), (256, 56, 56))
    assert code == "E210"
    assert message == "ADD branches disagree: 28x28x512 and 56x56x256"
    assert help == "project the other branch: CONV(512, F=1, S=2, P=0)"


@pytest.mark.parametrize(
    "shapes, help",
    [
        (((6, 5, 5), (8, 5, 5)), "project the other branch: CONV(6, F=1, P=0)"),
        (((6, 5, 5), (6, 7, 7)), "make the strides and paddings of the branches agree"),
        (((6, 4, 4), (6, 8, 4)), "make the strides and paddings of the branches agree"),
        (((10,), (12,)), "end the other branch in FC(10)"),
        (((6, 5, 5), (150,)), "end the other branch in FC(150)"),
    ],
)
def test_the_fix_fits_the_shapes(shapes, help):
    assert refusal(Add(), *shapes)[2] == help


def test_the_projection_offered_works():
    projection = Conv(512, (1, 1), (2, 2), ((0, 0), (0, 0)))
    assert projection.shape(TensorType((256, 56, 56))) == TensorType((512, 28, 28))
    odd = Conv(8, (1, 1), (2, 2), ((0, 0), (0, 0)))
    assert odd.shape(TensorType((4, 8, 8))) == TensorType((8, 4, 4))


def test_concat_names_all_shapes():
    code, message, help = refusal(Concat(), (3, 4, 4), (5, 4, 4), (3, 2, 2))
    assert code == "E210"
    assert message.endswith("disagree in height or width: 4x4x3, 4x4x5 and 2x2x3")
    assert help
    assert refusal(Concat(), (3, 4, 4), (48,))[0] == "E210"


@pytest.mark.parametrize(
    "shapes, help",
    [
        (((512, 28, 28), (32,)), "end the gate in FC(512): one number per channel"),
        (((32,), (512, 28, 28)), "end the gate in FC(512): one number per channel"),
        (((6, 5, 5), (3, 1, 1)), "end the gate in FC(6): one number per channel"),
        (((3, 2), (10,)), "end the gate in FC(3): one number per channel"),
        (((3, 1, 1), (4,)), "end the other branch in FC(4)"),
        (((10,), (12,)), "end the other branch in FC(10)"),
        (((6, 5, 5), (8, 5, 5)), "project the other branch: CONV(6, F=1, P=0)"),
        (((6, 5, 5), (6, 7, 7), (6,)), "make the strides and paddings of the branches agree"),
        (((6, 5, 5), (6, 10, 10), (6,)), "project the other branch: CONV(6, F=1, S=2, P=0)"),
        (((1, 5, 5), (6, 5, 5)), "project the other branch: CONV(1, F=1, P=0)"),
        (((6, 5), (6, 5, 5)), "a map and a sequence have no shape in common: end both in vectors"),
    ],
)
def test_mul_names_all_shapes_and_a_fix(shapes, help):
    code, message, advice = refusal(Mul(), *shapes)
    assert code == "E210" and message.startswith("MUL branches disagree: ")
    assert advice == help


def test_a_map_and_a_sequence_cannot_be_added():
    code, _, help = refusal(Add(), (6, 5), (6, 5, 5))
    assert code == "E210"
    assert help == "a map and a sequence have no shape in common: end both in vectors"


SQUEEZE = "CONV({c}) - MUL{{ {a} | {b} }} - RELU - FC(2)"
GATE = "GAP - FC(3) - RELU - FC({c}) - SIGMOID"


@pytest.mark.parametrize("gate_first", [False, True])
def test_squeeze_and_excitation_on_both_targets(gate_first):
    """The gate is worked out beside its map; product and RELU are one kernel."""
    branches = ["ID", GATE.format(c=6)]
    a, b = reversed(branches) if gate_first else branches
    net = convdsl.compile_text(f"input 2@5x4 net Se = {SQUEEZE.format(c=6, a=a, b=b)}")
    titles = [node.op.title for node in net.fused.nodes]
    assert "mul_relu" in titles
    models = [net.module(device="cpu", target=t) for t in ("torch", "triton")]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    answers = []
    for model in models:
        leaf = x.clone().requires_grad_()
        y = model(leaf)
        y.square().sum().backward()
        answers.append([y.detach(), leaf.grad, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
