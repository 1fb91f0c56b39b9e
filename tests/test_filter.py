"""FILTER: the lectures' image kernels, their numbers and what they do to images."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.graph import Role
from convdsl.ir.types import TensorType
from convdsl.ops.filter import KERNELS, Filter
from tests.conv_driver import (
    TOLERANCE,
    assert_close,
    assert_targets_agree,
    by_kernels,
    oracle,
)
from tests.empty_cache import empty_cache

#: the 6x6 image of the lectures' seed 001
IMAGE = [
    [3, 0, 1, 2, 7, 4],
    [1, 5, 8, 9, 3, 1],
    [2, 7, 2, 5, 1, 3],
    [0, 1, 3, 1, 7, 8],
    [4, 2, 1, 6, 2, 8],
    [2, 4, 5, 2, 3, 9],
]


def applied(name, image, pad="same"):
    """The filter by its meaning, on one image of one channel."""
    layer = Filter(name, pad)
    x = torch.as_tensor(image, dtype=torch.float64)[None, None]
    (spec,) = layer.parameters(TensorType((1, *x.shape[2:]))).values()
    weight = torch.tensor(spec.initializer.arguments, dtype=torch.float64).view(spec.shape)
    (text,) = layer.reference("x", "w")
    return eval(text, {"torch": torch, "F": F, "x": x, "w": weight})[0, 0]


def test_names_are_those_of_the_lectures():
    assert set(KERNELS) == {
        *("identity", "edge1", "edge2", "edge3", "sharpen", "box_blur", "gaussian_blur"),
        *("vertical_edge", "horizontal_edge", "difference", "diagonal"),
    }


def test_sums_of_the_numbers():
    """Blurs and sharpening keep the brightness of an even area, edge detectors make it 0."""
    sums = {name: sum(map(sum, rows)) for name, rows in KERNELS.items()}
    assert {n for n, s in sums.items() if s == pytest.approx(1)} == {
        *("identity", "sharpen", "box_blur", "gaussian_blur"),
    }
    assert {n for n, s in sums.items() if s == 0} == {
        *("edge1", "edge2", "edge3", "vertical_edge", "horizontal_edge", "difference"),
    }
    assert sums["diagonal"] == pytest.approx(2)


def test_vertical_edges_of_the_lectures_image():
    """Seed 001 prints this 4x4 result."""
    y = applied("vertical_edge", IMAGE, "valid")
    assert y.tolist() == [[-5, -4, 0, 8], [-10, -2, 2, 3], [0, -2, -4, -7], [-3, -2, -3, -16]]


def test_horizontal_edges_are_vertical_ones_of_the_turned_image():
    image = torch.tensor(IMAGE)
    assert torch.equal(applied("horizontal_edge", image), applied("vertical_edge", image.T).T)


def test_difference_is_large_where_the_left_pixel_is_brighter():
    """Seed 004: [1 -1] is positive from bright to dark and negative the other way round."""
    y = applied("difference", [[0, 0, 9, 9, 0]], "valid")
    assert y.tolist() == [[0, -9, 0, 9]]
    assert applied("difference", IMAGE).shape == (6, 6)  # same: one column of zeros at the end


def test_diagonal_answers_most_to_a_diagonal_line():
    line = torch.eye(5)
    assert applied("diagonal", line)[2, 2] == pytest.approx(1.2)
    assert applied("diagonal", line.flip(0))[2, 2] == pytest.approx(0.0)


def test_identity_changes_nothing_and_blurs_average():
    image = torch.tensor(IMAGE, dtype=torch.float64)
    assert torch.equal(applied("identity", image), image)
    torch.testing.assert_close(applied("box_blur", image)[1, 1], image[:3, :3].mean())
    expected = (3 + 2 * 0 + 1 + 2 * 1 + 4 * 5 + 2 * 8 + 2 + 2 * 7 + 2) / 16
    assert applied("gaussian_blur", image)[1, 1] == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name, dtype):
    layer = Filter(name)
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(2, 3, 5, 4, generator=generator).to(dtype) for _ in range(2))
    spec = layer.parameters(TensorType((3, 5, 4)))["weight"]
    numbers = torch.tensor(spec.initializer.arguments)
    weight = numbers.expand(3, -1).reshape(spec.shape).to(dtype)
    y, gradients = oracle(layer, x, (weight,), dy)
    mine, found = by_kernels(layer, x, (weight,), dy)
    assert len(found) == 1  # there is nothing to learn
    assert_close(mine, y, TOLERANCE[dtype])
    assert_close(found[0], gradients[0], TOLERANCE[dtype])


def test_its_numbers_are_no_parameters():
    network = compile_text("input 3@8x8\nnet N = FILTER(sharpen) - CONV(2)\n")
    roles = {p.path: p.role for p in network.graph.parameters}
    assert roles == {
        "conv.weight": Role.LEARNED,
        "conv.bias": Role.LEARNED,
        "filter.weight": Role.CONSTANT,
    }
    assert sum(p.value.type.elements for p in network.graph.learned) == 2 * 3 * 9 + 2


@pytest.mark.parametrize("chain", ["FILTER(edge2) - RELU - FC(2)", "CONV(2) - FILTER(diagonal)"])
def test_networks(chain):
    assert_targets_agree(f"input 3@6x5\nnet N = {chain}\n")


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_a_network_of_a_filter_alone_has_nothing_to_save(target):
    with empty_cache():
        module = compile_text("input 1@6x6\nnet N = FILTER(vertical_edge, P=valid)\n").module(
            device="cpu", target=target
        )
    assert list(module.state_dict()) == list(module.parameters()) == []
    y = module(torch.tensor(IMAGE, dtype=torch.float32)[None, None])
    torch.testing.assert_close(y[0, 0].double(), applied("vertical_edge", IMAGE, "valid"))
