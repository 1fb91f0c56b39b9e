"""DROPOUT: random words, rate, independence, the mask replayed backwards, evaluation."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from convdsl.ir.arguments import ArgumentError
from convdsl.ir.builder import Builder
from convdsl.kernels.dropout import random_word
from convdsl.ops.dropout import Dropout
from tests.kernel_driver import node_of
from tests.op_driver import autograd, forward_backward, kernels, reference

ELEMENTS = 40_000


def mask(layer: Dropout, seed: int, elements: int = ELEMENTS) -> torch.Tensor:
    (y,) = kernels(layer, torch.ones(1, elements), seed=seed)
    return y[0] != 0.0


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Correlation of two masks in standard deviations: below 4 unless they depend."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return ((a * b).sum() / (a.norm() * b.norm())).item() * ELEMENTS**0.5


@triton.jit
def one_word(counter_ptr, y_ptr):
    low = tl.load(counter_ptr).to(tl.uint32)
    high = tl.load(counter_ptr + 1).to(tl.uint32)
    key = tl.load(counter_ptr + 2).to(tl.uint32)
    tl.store(y_ptr, random_word(low, high, key).to(tl.int64))


@pytest.mark.parametrize(
    ("low", "high", "key", "word"),
    [
        (0, 0, 0, 0xFF1DAE59),
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x2C3F628B),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0xDD7CE038),
    ],
)
def test_words_are_those_of_the_generators_authors(low, high, key, word):
    """Known answers of philox2x32 with 10 rounds in Random123's ``kat_vectors``."""
    y = torch.zeros(1, dtype=torch.int64)
    one_word[(1,)](torch.tensor([low, high, key]), y)
    assert y.item() == word


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**62 + 5])
def test_keep_rate_and_scale(p, seed):
    (y,) = kernels(Dropout(p), torch.ones(1, ELEMENTS), seed=seed)
    kept = (y != 0.0).sum().item()
    assert abs(kept - ELEMENTS * (1 - p)) < 4 * (ELEMENTS * p * (1 - p)) ** 0.5
    assert torch.equal(y.unique(), torch.tensor([0.0, 1 / (1 - p)]))


def test_masks_of_seeds_and_salts_are_independent():
    layer = Dropout(0.5)
    masks = [
        mask(layer, 1),
        mask(layer, 2),
        mask(layer, 1 + 2**32),
        mask(replace(layer, salt=1), 1),
        mask(replace(layer, salt=2), 1),
        mask(replace(layer, salt=1), 0),
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(agreement(one, other)) < 4


def test_neighbours_are_independent():
    one = mask(Dropout(0.5), 3, ELEMENTS + 8)
    for distance in range(1, 9):
        assert abs(agreement(one[:ELEMENTS], one[distance : distance + ELEMENTS])) < 4


def test_the_backward_pass_replays_the_mask():
    x, dy = torch.randn(2, 5, 6, 7), torch.randn(2, 5, 6, 7)
    layer = Dropout(0.3, salt=4)
    (y,), (dx,) = forward_backward(layer, [x], dy, seed=11)
    (factor,) = kernels(layer, torch.ones_like(x), seed=11)
    assert 0 < (factor == 0).sum() < factor.numel()
    assert torch.equal(y, x * factor)
    assert torch.equal(dx, dy * factor)


def test_nothing_is_saved_for_the_backward_pass():
    node, build = node_of(Dropout(), [torch.ones(2, 3)]), Builder()
    dy = build.value("dy", node.output.type)
    Dropout().gradient(node, dy, build)
    assert [step.inputs for step in build.nodes] == [(dy,)]


def test_a_negative_seed_turns_it_off():
    x = torch.randn(2, 3, 4, 5)
    (y,), (dx,) = forward_backward(Dropout(0.9), [x], 2 * x, seed=-1)
    assert torch.equal(y, x) and torch.equal(dx, 2 * x)
    assert torch.equal(reference(Dropout(0.9), x)[0], x)
    assert torch.equal(autograd(Dropout(0.9), [x], x)[0], x.double())


def test_the_same_number_gives_the_same_bit_in_any_launch():
    # 2 images of 3@4x5 are the elements 0 .. 119 of one long vector in storage order
    layer = Dropout(0.5, salt=9)
    (map_,) = kernels(layer, torch.ones(2, 3, 4, 5), seed=5)
    assert torch.equal(map_.permute(0, 2, 3, 1).flatten() != 0, mask(layer, 5, 120))


def test_when_it_is_the_identity():
    assert Dropout(0.5).is_identity(training=False)
    assert not Dropout(0.5).is_identity(training=True)
    assert Dropout(0.0).is_identity(training=True)
    x = torch.randn(1, 100)
    assert torch.equal(kernels(Dropout(0.0), x, seed=1)[0], x)


def test_p_is_below_one_and_salt_is_no_argument():
    (spec,) = Dropout.arguments()
    assert spec.name == "p"
    for refused in (1, 1.0, -0.1, 1.5):
        with pytest.raises(ArgumentError):
            spec.convert(refused)
