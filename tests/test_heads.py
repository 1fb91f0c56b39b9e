"""The heads: loss and gradient of their kernels against torch's own functions in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convdsl.ops  # noqa: F401  (registers the heads)
from convdsl.ir.head import Head
from convdsl.ir.op import HEADS, ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.contrastive import Contrastive
from convdsl.ops.cross_entropy import SoftmaxCrossEntropy
from convdsl.ops.mse import MeanSquaredError
from convdsl.ops.sigmoid_head import SigmoidCrossEntropy
from convdsl.ops.svm import Svm
from tests.head_driver import by_reference, kernels
from tests.op_driver import error

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """A head, the shape of a batch, and torch's own function of (x, y) in float64."""

    name: str
    head: Head
    shape: tuple[int, ...]
    torchs: Callable[[Tensor, Tensor], Tensor]
    scale: float = 2.0

    def sample(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Float32 scores and labels."""
        generator = torch.Generator().manual_seed(seed)
        x = self.scale * torch.randn(self.shape, generator=generator)
        labels = self.head.labels(TensorType(self.shape[1:]))
        size = (self.shape[0], *labels.shape)
        if labels.kind == "classes":
            y = torch.randint(labels.classes, size, generator=generator)
            if labels.ignored is not None and y.numel() > 4:
                y.view(-1)[1::4] = labels.ignored
            return x, y
        if labels.kind == "pairs":
            return x.abs(), torch.randint(2, size, generator=generator).float()
        y = torch.rand(size, generator=generator)
        return x, (y if labels.most is None else torch.where(y < 0.5, y.round(), y))


def weights(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


THREE = (0.25, 1.0, 3.5)
MANY = tuple(float(i % 7) for i in range(5000))
CASES = [
    Case("softmax", SoftmaxCrossEntropy(), (6, 10), F.cross_entropy),
    Case("softmax of a map", SoftmaxCrossEntropy(), (2, 5, 3, 4), F.cross_entropy),
    Case("softmax of a sequence", SoftmaxCrossEntropy(), (2, 5, 7), F.cross_entropy),
    Case("softmax of many rows", SoftmaxCrossEntropy(), (1, 2, 50, 60), F.cross_entropy),
    Case(
        "class weights",
        SoftmaxCrossEntropy(class_weights=THREE),
        (7, 3),
        lambda x, y: F.cross_entropy(x, y, weights(*THREE)),
    ),
    Case(
        "class weights on a map",
        SoftmaxCrossEntropy(class_weights=THREE),
        (2, 3, 5, 3),
        lambda x, y: F.cross_entropy(x, y, weights(*THREE)),
    ),
    Case(
        "label smoothing",
        SoftmaxCrossEntropy(label_smoothing=0.1),
        (9, 5),
        lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    ),
    Case(
        "all smoothing",
        SoftmaxCrossEntropy(label_smoothing=1.0),
        (5, 4),
        lambda x, y: F.cross_entropy(x, y, label_smoothing=1.0),
    ),
    Case(
        "weights and smoothing on a sequence",
        SoftmaxCrossEntropy(class_weights=(0.0, 1.0, 3.5), label_smoothing=0.2),
        (3, 3, 6),
        lambda x, y: F.cross_entropy(x, y, weights(0.0, 1.0, 3.5), label_smoothing=0.2),
    ),
    Case(
        "wider than a block",
        SoftmaxCrossEntropy(class_weights=MANY, label_smoothing=0.3),
        (3, 5000),
        lambda x, y: F.cross_entropy(x, y, weights(*MANY), label_smoothing=0.3),
    ),
    Case(
        "ignoring a class",
        SoftmaxCrossEntropy(ignore_index=0),
        (8, 4),
        lambda x, y: F.cross_entropy(x, y, ignore_index=0),
    ),
    Case(
        "ignoring 255",
        SoftmaxCrossEntropy(ignore_index=255, class_weights=THREE),
        (2, 3, 4, 4),
        lambda x, y: F.cross_entropy(x, y, weights(*THREE), ignore_index=255),
    ),
    Case("hinge", Svm(), (5, 10), F.multi_margin_loss),
    Case("hinge of two", Svm(), (5, 2), F.multi_margin_loss),
    Case("hinge, many", Svm(), (2, 5000), F.multi_margin_loss),
    Case(
        "squared hinge",
        Svm(margin=0.5, p=2),
        (300, 7),
        lambda x, y: F.multi_margin_loss(x, y, p=2, margin=0.5),
    ),
    Case("sigmoid", SigmoidCrossEntropy(), (5, 7), F.binary_cross_entropy_with_logits),
    Case("sigmoid of one", SigmoidCrossEntropy(), (4, 1), F.binary_cross_entropy_with_logits),
    Case(
        "sigmoid, saturated",
        SigmoidCrossEntropy(),
        (20, 20),
        F.binary_cross_entropy_with_logits,
        50.0,
    ),
    Case(
        "sigmoid of a map, weighted",
        SigmoidCrossEntropy(pos_weight=THREE),
        (2, 3, 20, 19),
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, pos_weight=weights(*THREE).view(3, 1, 1)
        ),
    ),
    Case(
        "sigmoid of a sequence, weighted",
        SigmoidCrossEntropy(pos_weight=THREE),
        (2, 3, 4),
        lambda x, y: F.binary_cross_entropy_with_logits(
            x, y, pos_weight=weights(*THREE).view(3, 1)
        ),
    ),
    Case(
        "sigmoid, one weight",
        SigmoidCrossEntropy(pos_weight=4.0),
        (3, 5),
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, pos_weight=weights(4.0)),
    ),
    Case("mse", MeanSquaredError(), (3, 7), F.mse_loss),
    Case("mse of a map", MeanSquaredError(), (2, 3, 20, 19), F.mse_loss),
    Case("mse of a sequence", MeanSquaredError(), (2, 3, 5), F.mse_loss),
    Case("mse of one number", MeanSquaredError(), (1, 1), F.mse_loss),
    Case(
        "contrastive",
        Contrastive(),
        (9, 1),
        lambda d, y: torch.where(y == 1, d**2, (1 - d).clamp_min(0) ** 2).mean(),
    ),
    Case(
        "contrastive, wide margin",
        Contrastive(margin=3.5),
        (1500, 1),
        lambda d, y: torch.where(y == 1, d**2, (3.5 - d).clamp_min(0) ** 2).mean(),
    ),
]
CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def torchs(case: Case, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of torch's function in float64."""
    leaf = x.double().requires_grad_()
    loss = case.torchs(leaf, y.double() if y.is_floating_point() else y)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def test_every_head_has_a_case() -> None:
    assert {type(case.head) for case in CASES} == set(HEADS.values())


@CASE
def test_the_torch_text_is_torchs_function(case: Case) -> None:
    x, y = case.sample()
    for ours, theirs in zip(by_reference(case.head, x, y), torchs(case, x, y), strict=True):
        assert error(ours, theirs) < 1e-12


@CASE
def test_kernels(case: Case) -> None:
    x, y = case.sample()
    loss, _, dx = kernels(case.head, x, y)
    expected, expected_dx = torchs(case, x, y)
    assert loss.dtype is torch.float32
    assert error(loss, expected) < 2e-6
    assert (dx - expected_dx).abs().max() < 2e-6 * expected_dx.abs().max()


@CASE
def test_two_runs_are_bit_equal(case: Case) -> None:
    x, y = case.sample(1)
    for first, second in zip(kernels(case.head, x, y), kernels(case.head, x, y), strict=True):
        assert torch.equal(first, second)


@CASE
def test_half_precision_storage_with_float32_arithmetic(case: Case) -> None:
    x, y = case.sample(2)
    x = x.half()
    loss, raw, dx = kernels(case.head, x, y)
    expected, expected_dx = torchs(case, x, y)
    assert raw.dtype is torch.float16 and loss.dtype is torch.float32
    assert error(loss, expected) < 2e-6
    assert (dx - expected_dx).abs().max() < 1e-3 * expected_dx.abs().max()


def test_small_gradients_are_not_lost_in_half_precision() -> None:
    """Each is 1e-6 of the loss's, below what float16 can hold with three digits."""
    head = SigmoidCrossEntropy()
    x, y = torch.zeros(4, 1, 32, 32).half(), torch.full((4, 1, 32, 32), 0.25)
    _, raw, dx = kernels(head, x, y)
    assert torch.equal(raw, torch.full_like(raw, 0.25))
    assert (dx * 4096 - 0.25).abs().max() < 1e-7


@CASE
def test_the_loss_of_an_empty_batch_is_nan(case: Case) -> None:
    x, y = (t[:0] for t in case.sample())
    loss, raw, _ = kernels(case.head, x, y)
    assert loss.isnan() and raw.shape == (0, *case.shape[1:])
    assert by_reference(case.head, x, y)[0].isnan()


@CASE
def test_a_number_that_is_none_is_torchs(case: Case) -> None:
    x, y = case.sample()
    x.view(-1)[0] = NAN
    loss, _, dx = kernels(case.head, x, y)
    expected, expected_dx = torchs(case, x, y)
    assert error(loss, expected) < 2e-6
    assert error(dx, expected_dx) < 2e-6


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_is_learned_where_every_label_is_ignored(smoothing: float) -> None:
    head = SoftmaxCrossEntropy(label_smoothing=smoothing)
    x, y = torch.randn(3, 4), torch.full((3,), -100)
    loss, _, dx = kernels(head, x, y)
    expected, expected_dx = by_reference(head, x, y)
    assert loss.isnan() and expected.isnan()
    assert torch.equal(dx, expected_dx) and not dx.any()


def test_a_number_that_is_none_under_an_ignored_label_leaves_the_loss_alone() -> None:
    head = SoftmaxCrossEntropy()
    x, y = torch.randn(3, 4), torch.tensor([-100, 1, 2])
    x[0, 1] = NAN
    loss, _, dx = kernels(head, x, y)
    assert loss.isfinite() and dx[1:].isfinite().all()
    assert error(dx, by_reference(head, x, y)[1]) < 1e-6


def test_scores_exactly_at_the_margin_cost_nothing_and_pull_at_nothing() -> None:
    x, y = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([1])
    loss, _, dx = kernels(Svm(), x, y)
    assert loss.item() == pytest.approx(5 / 3)
    torch.testing.assert_close(dx, torch.tensor([[0.0, -1 / 3, 1 / 3]]).double())


def test_the_hinge_loss_of_the_lectures() -> None:
    """CS231n, 3: scores 3.2, 5.1, -1.7 of a cat cost 2.9; here the mean over the three classes."""
    x, y = torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0])
    assert kernels(Svm(), x, y)[0].item() == pytest.approx(2.9 / 3)


def test_the_cross_entropy_of_the_lectures() -> None:
    """CS231n, 3: the same scores cost -ln 0.13."""
    x, y = torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0])
    assert kernels(SoftmaxCrossEntropy(), x, y)[0].item() == pytest.approx(2.0404, abs=1e-4)


def test_a_distance_at_the_margin_is_far_enough() -> None:
    x, y = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    loss, _, dx = kernels(Contrastive(), x, y)
    assert loss.item() == 0.0 and not dx.any()


def test_similar_pairs_are_pulled_and_others_pushed() -> None:
    x = torch.tensor([[0.5], [0.5]])
    loss, _, dx = kernels(Contrastive(), x, torch.tensor([[1.0], [0.0]]))
    assert loss.item() == pytest.approx(0.25)
    assert dx[0] > 0 > dx[1]


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_sigmoid_of_infinite_scores(y: float) -> None:
    """The wrong side of certain costs infinitely much, with a finite gradient."""
    wrong = torch.tensor([[float("-inf") if y else float("inf")]])
    loss, _, dx = kernels(SigmoidCrossEntropy(), wrong, torch.tensor([[y]]))
    assert loss.item() == float("inf")
    assert dx.item() == (-1.0 if y else 1.0)


@pytest.mark.parametrize(
    ("head", "shape", "words"),
    [
        (SoftmaxCrossEntropy(), (1,), "one score"),
        (SoftmaxCrossEntropy(class_weights=(1.0, 2.0)), (3,), "class_weights has 2 numbers"),
        (Svm(), (1,), "one score"),
        (Svm(), (3, 4, 4), "no vector of scores"),
        (Svm(), (3, 4), "no vector of scores"),
        (SigmoidCrossEntropy(pos_weight=(1.0, 2.0)), (3,), "pos_weight has 2 numbers"),
        (Contrastive(), (2,), "no distance"),
        (Contrastive(), (1, 2, 2), "no distance"),
    ],
)
def test_what_a_head_cannot_stand_on(head: Head, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ShapeError) as refusal:
        head.check(TensorType(shape))
    assert refusal.value.code == "E215" and refusal.value.help
    assert words in refusal.value.message


@CASE
def test_predictions(case: Case) -> None:
    x, _ = case.sample()
    p = eval(case.head.predict("x"), {"torch": torch, "F": F, "x": x})
    expected = {SoftmaxCrossEntropy: x.softmax(1), SigmoidCrossEntropy: x.sigmoid()}
    assert torch.equal(p, expected.get(type(case.head), x))
