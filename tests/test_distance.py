"""DISTANCE against torch's pairwise_distance: values, gradients, equal vectors, refusals."""

import pytest
import torch
import torch.nn.functional as F

import convdsl
from convdsl.ops.distance import Distance
from tests.op_driver import autograd, error, forward_backward, kernels, reference, refusal


def pair(n, c, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, n, c), generator=generator).unbind()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("n, c", [(1, 1), (3, 10), (70, 5), (2, 5000), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_and_gradients_are_torchs(p, n, c, dtype):
    a, b = (x.to(dtype) for x in pair(n, c))
    layer = Distance(p)
    leaves = [x.double().requires_grad_() for x in (a, b)]
    expected = F.pairwise_distance(*leaves, p=p, keepdim=True)
    dy = torch.randn(n, 1, generator=torch.Generator().manual_seed(1)).to(dtype)
    theirs = torch.autograd.grad(expected, leaves, dy.double())
    (y,), ours = forward_backward(layer, [a, b], dy)
    assert y.shape == (n, 1) and y.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-3
    for mine, other in zip((y, *ours), (expected.detach(), *theirs), strict=True):
        assert error(mine, other) < tolerance
    exact = [a.double(), b.double()]
    (y,), ours = forward_backward(layer, exact, dy.double(), by=reference)
    for mine, other in zip((y, *ours), (expected.detach(), *theirs), strict=True):
        assert error(mine, other) < 1e-12


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equal_vectors_have_torchs_small_distance_and_a_finite_gradient(p, dtype):
    """The eps of 1e-6 is added to every difference, so d/|d| is 1/sqrt(C) in every place."""
    a = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=dtype)
    dy = torch.ones(1, 1, dtype=dtype)
    (y,), (da, db) = forward_backward(Distance(p), [a, a.clone()], dy)
    theirs = autograd(Distance(p), [a, a.clone()], dy)
    assert y.item() == pytest.approx(2e-6 if p == 2 else 4e-6, rel=0.05)
    assert error(da, theirs[0]) < 1e-3 and error(db, theirs[1]) < 1e-3
    assert da.tolist() == [[0.5 if p == 2 else 1.0] * 4]


@pytest.mark.parametrize("p", [1, 2])
def test_a_difference_of_exactly_minus_eps_has_no_gradient(p):
    """Here torch's own norm is at 0, and gives 0."""
    a, b = torch.zeros(1, 3), torch.full((1, 3), 1e-6)
    (y,), (da, db) = forward_backward(Distance(p), [a, b], torch.ones(1, 1))
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    expected = F.pairwise_distance(*leaves, p=p, keepdim=True)
    theirs = torch.autograd.grad(expected.sum(), leaves)
    assert y.item() == expected.item() == 0.0
    assert torch.equal(da, theirs[0]) and torch.equal(db, theirs[1])
    assert da.tolist() == [[0.0] * 3]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_in_their_row(p, odd):
    a, b = pair(3, 4)
    a[1, 2] = odd
    dy = torch.ones(3, 1)
    (y,), (da, _) = forward_backward(Distance(p), [a, b], dy)
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    expected = F.pairwise_distance(*leaves, p=p, keepdim=True)
    theirs = torch.autograd.grad(expected, leaves, dy)
    assert error(y, expected.detach()) < 1e-6
    assert error(da, theirs[0]) < 1e-6
    assert y[[0, 2]].isfinite().all() and da[[0, 2]].isfinite().all()


def test_a_vectors_distance_to_itself_has_no_gradient():
    (a, _) = pair(3, 4)
    _, (da,) = forward_backward(Distance(), [a, a], torch.ones(3, 1), same=True)
    assert da.tolist() == [[0.0] * 4] * 3


def test_two_runs_give_equal_bits():
    a, b = pair(5, 5000)
    assert torch.equal(*(kernels(Distance(), a, b)[0] for _ in range(2)))
    assert (
        error(kernels(Distance(), a, b)[0], reference(Distance(), a.double(), b.double())[0]) < 1e-5
    )


def test_what_does_not_fit_is_refused_with_a_fix():
    assert refusal(Distance(), (10,), (12,)) == (
        "E210",
        "DISTANCE branches disagree: 10 and 12",
        "end the other branch in FC(10)",
    )
    assert refusal(Distance(), (3, 4, 5), (60,)) == (
        "E210",
        "DISTANCE branches disagree: 4x5x3 and 60",
        "end both branches alike, for example in FC(64)",
    )
    assert refusal(Distance(), (3, 4, 5), (3, 4, 5)) == (
        "E214",
        "needs vectors, got 4x5x3",
        "end both branches in FC(64), GAP or FLATTEN",
    )
    assert refusal(Distance(), (3,), (3,), (3,)) == (
        "E225",
        "measures between two branches, got 3",
        "write DISTANCE{ a | b }",
    )


def test_behind_it_pointwise_layers_are_fused():
    net = convdsl.compile_text("input 6 net Alike = DISTANCE(p=1){ FC(4) | FC(4) } - SIGMOID")
    assert "distance_sigmoid" in [node.op.title for node in net.fused.nodes]
