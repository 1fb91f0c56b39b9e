"""SOFTMAX as a layer, and the head on extreme scores, against torch."""

import pytest
import torch

from convdsl.ir.op import LAYERS
from convdsl.ops.cross_entropy import SoftmaxCrossEntropy
from convdsl.ops.softmax import Softmax
from tests.head_driver import by_reference
from tests.head_driver import kernels as kernels_of_head
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
NAN = float("nan")
HEAD = SoftmaxCrossEntropy()


def sample(*shape: int, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = scale * torch.randn(shape, generator=generator)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return x, labels


SHAPES = [(3, 10), (1, 2), (2, 1000), (2, 21_841), (2, 5, 3, 4), (1, 21, 7, 5), (2, 3, 4), (300, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer(shape):
    x, _ = sample(*shape)
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (y,), (dx,) = forward_backward(Softmax(), [x], dy)
    assert error(y, reference(Softmax(), x.double())[0]) < 1e-6
    expected = autograd(Softmax(), [x], dy)[0]
    assert error(dx, expected) < 1e-6
    _, (by_reference,) = forward_backward(Softmax(), [x.double()], dy.double(), by=reference)
    assert error(by_reference, expected) < 1e-12


def test_layer_of_an_empty_batch():
    (y,) = kernels(Softmax(), torch.zeros(0, 5, 2, 2))
    assert y.shape == (0, 5, 2, 2)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_head_is_stable_for_large_logits(scale):
    x = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5], [0.0, 1.0, 1.0]]) * scale
    labels = torch.tensor([0, 1, 2])
    loss, _, dx = kernels_of_head(HEAD, x, labels)
    expected_loss, expected_dx = by_reference(HEAD, x, labels)
    assert loss.isfinite() and dx.isfinite().all()
    assert abs(loss.item() / expected_loss.item() - 1) < 1e-6
    assert error(dx, expected_dx) < 1e-6


@pytest.mark.parametrize(
    "row, label",
    [
        ([0.0, -INF, 1.0], 0),
        ([0.0, -INF, 1.0], 1),
        ([0.0, INF, 1.0], 1),
        ([0.0, INF, 1.0], 0),
        ([INF, INF, 1.0], 0),
        ([-INF, -INF, -INF], 0),
        ([0.0, NAN, 1.0], 0),
        ([NAN, NAN, NAN], 0),
    ],
)
def test_infinite_logits_as_torch(row, label):
    x, labels = torch.tensor([row]), torch.tensor([label])
    loss, _, dx = kernels_of_head(HEAD, x, labels)
    expected_loss, expected_dx = by_reference(HEAD, x, labels)
    assert error(loss, expected_loss) < 1e-6
    assert error(dx, expected_dx) < 1e-6
    (y,) = kernels(Softmax(), x)
    assert error(y, torch.softmax(x.double(), 1)) < 1e-6


def test_the_mean_over_many_rows_is_accurate_and_repeatable():
    x, labels = sample(3000, 2)
    loss, _, dx = kernels_of_head(HEAD, x, labels)
    again, _, dx_again = kernels_of_head(HEAD, x, labels)
    assert abs(loss.item() / by_reference(HEAD, x, labels)[0].item() - 1) < 1e-6
    assert torch.equal(loss, again) and torch.equal(dx, dx_again)


def test_the_head_names_the_layer_it_contains():
    assert LAYERS[HEAD.absorbs] is Softmax
