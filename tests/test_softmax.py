"""SOFTMAX as a layer and as a head, against torch."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.ir.graph import Value
from convdsl.ir.op import HEADS, LAYERS, ShapeError
from convdsl.ir.types import DType, TensorType
from convdsl.ops.softmax import Softmax
from tests.kernel_driver import launch_all, logical, stored
from tests.op_driver import autograd, error, forward_backward, kernels, reference

INF = float("inf")
NAN = float("nan")
HEAD = HEADS["SOFTMAX"]()


def head(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and its gradient by the head's kernels."""
    kind = TensorType(tuple(x.shape[1:]))
    output, target = Value("output", kind), Value("labels", HEAD.labels(kind))
    loss = Value("loss", TensorType((), DType.FLOAT32, batched=False))
    gradient = Value("d_output", kind)
    tensors = {
        output: stored(x),
        target: labels,
        loss: torch.full((), NAN),
        gradient: torch.full_like(stored(x), NAN),
    }
    schedule = HEAD.schedule(output, target, loss, gradient)
    launch_all(schedule, tensors, x.shape[0], x.dtype)
    return tensors[loss], logical(tensors[gradient], kind)


def torchs(x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = x.double().requires_grad_()
    loss = eval(HEAD.loss("x", "t"), {"F": F, "x": leaf, "t": labels})
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_head(shape):
    x, labels = sample(*shape)
    loss, dx = head(x, labels)
    expected_loss, expected_dx = torchs(x, labels)
    assert loss.dtype is torch.float32
    assert abs(loss.item() - expected_loss.item()) < 2e-6 * max(1.0, expected_loss.item())
    assert ((dx.double() - expected_dx).abs().max() / expected_dx.abs().max()) < 2e-6


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_head_is_stable_for_large_logits(scale):
    x = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5], [0.0, 1.0, 1.0]]) * scale
    labels = torch.tensor([0, 1, 2])
    loss, dx = head(x, labels)
    expected_loss, expected_dx = torchs(x, labels)
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
    loss, dx = head(x, labels)
    expected_loss, expected_dx = torchs(x, labels)
    assert error(loss, expected_loss) < 1e-6
    assert error(dx, expected_dx) < 1e-6
    (y,) = kernels(Softmax(), x)
    assert error(y, torch.softmax(x.double(), 1)) < 1e-6


def test_half_precision_storage_with_float32_arithmetic():
    x, labels = sample(4, 1000)
    half = x.half()
    loss, dx = head(half, labels)
    expected_loss, expected_dx = torchs(half, labels)
    assert dx.dtype is torch.float16
    assert abs(loss.item() / expected_loss.item() - 1) < 1e-6
    assert (dx.double() - expected_dx).abs().max() < 1e-3 * expected_dx.abs().max()


@pytest.mark.parametrize("shape", [(0, 10), (0, 3, 2, 2)], ids=str)
def test_the_loss_of_an_empty_batch_is_nan(shape):
    x, labels = sample(*shape)
    loss, dx = head(x, labels)
    assert loss.isnan() and F.cross_entropy(x, labels).isnan()
    assert dx.shape == shape


def test_the_mean_over_many_rows_is_accurate_and_repeatable():
    x, labels = sample(3000, 2)
    loss, dx = head(x, labels)
    again, dx_again = head(x, labels)
    assert abs(loss.item() / torchs(x, labels)[0].item() - 1) < 1e-6
    assert torch.equal(loss, again) and torch.equal(dx, dx_again)


def test_predict_gives_probabilities():
    x, _ = sample(2, 5, 3, 4)
    p = eval(HEAD.predict("x"), {"torch": torch, "F": F, "x": x})
    assert torch.allclose(p.sum(1), torch.ones(2, 3, 4))


def test_labels_and_fit():
    assert HEAD.labels(TensorType((10,))) == TensorType((), DType.INT64)
    assert HEAD.labels(TensorType((21, 5, 7))) == TensorType((5, 7), DType.INT64)
    HEAD.check(TensorType((2,)))
    with pytest.raises(ShapeError) as refusal:
        HEAD.check(TensorType((1,)))
    assert refusal.value.code == "E215" and refusal.value.help


def test_the_head_names_the_layer_it_contains():
    assert LAYERS[HEAD.absorbs] is Softmax
