"""Sizes against windows counted one by one, padding words against the lectures' formulas."""

import itertools

import pytest

from convdsl.compiler import compile_text
from convdsl.ir.op import ShapeError, Window
from convdsl.ir.types import Notation, TensorType
from convdsl.ops._window import (
    as_map,
    axis_padding,
    extent,
    output_size,
    output_sizes,
    over_a_map,
    window_over,
)
from convdsl.report.costs import measure
from convdsl.report.explain import explain


def count_windows(size, kernel, stride, padding, dilation):
    """Places where a whole window fits between the ends of the padded input."""
    last = size + padding[1] - extent(kernel, dilation)
    return len(range(-padding[0], last + 1, stride))


@pytest.mark.parametrize(("stride", "expected"), [(1, 5), (2, 3), (3, 2)])
def test_seven_wide_filter_three(stride, expected):
    assert output_size(7, 3, stride, (0, 0)) == expected


def test_lecture_figures():
    assert output_size(7, 3, 1, (1, 1)) == 7
    assert output_size(32, 5, 1, (2, 2)) == 32
    assert output_size(227, 11, 4, (0, 0)) == 55
    assert output_size(55, 3, 2, (0, 0)) == 27
    assert output_size(224, 7, 2, (3, 3)) == 112
    assert output_size(224, 7, 2, axis_padding("half", 224, 7, 2)) == 112


def test_floor_sizes_are_counted_windows():
    grid = itertools.product(
        range(1, 9), (1, 2, 3, 5), (1, 2, 3, 4), ((0, 0), (1, 1), (2, 0)), (1, 2)
    )
    for size, kernel, stride, padding, dilation in grid:
        counted = count_windows(size, kernel, stride, padding, dilation)
        if counted:
            assert output_size(size, kernel, stride, padding, dilation) == counted
        else:
            with pytest.raises(ShapeError) as caught:
                output_size(size, kernel, stride, padding, dilation)
            assert caught.value.code == "E212"
            caught.value.message.format(**caught.value.values)


def test_ceil_sizes_are_torch_s():
    torch = pytest.importorskip("torch")
    for size, kernel, stride in itertools.product(range(3, 12), (2, 3), (1, 2, 3)):
        for pad in range(kernel // 2 + 1):
            x = torch.zeros(1, 1, size, size)
            y = torch.nn.functional.max_pool2d(x, kernel, stride, pad, ceil_mode=True)
            assert output_size(size, kernel, stride, (pad, pad), ceil=True) == y.shape[-1]


def test_same_gives_ceil_and_puts_the_odd_zero_at_the_end():
    for size, kernel, stride, dilation in itertools.product(
        range(1, 12), (1, 2, 3, 5), (1, 2, 3, 4), (1, 2)
    ):
        start, end = axis_padding("same", size, kernel, stride, dilation)
        assert output_size(size, kernel, stride, (start, end), dilation) == -(-size // stride)
        assert end - start in (0, 1)
        needed = stride * -(-size // stride) - size + extent(kernel, dilation) - stride
        assert start + end == max(0, needed)


def test_words():
    assert axis_padding("half", 9, 5, 2) == (2, 2)
    assert axis_padding("half", 9, 3, 1, 2) == (2, 2)
    assert axis_padding("valid", 9, 5, 2) == (0, 0)
    assert axis_padding("full", 9, 5, 2) == (4, 4)
    assert axis_padding("full", 9, 3, 1, 2) == (4, 4)
    assert axis_padding("same", 224, 7, 2) == (2, 3)  # half would be (3, 3)


def test_half_needs_an_odd_extent():
    with pytest.raises(ShapeError) as caught:
        axis_padding("half", 9, 4, 1)
    assert caught.value.code == "E222"
    assert "1.5" in caught.value.message.format(**caught.value.values)


def test_window_over_a_map():
    x = TensorType((3, 9, 7))
    window = window_over(x, (3, 2), (2, 2), "same")
    assert window.padding == ((1, 1), (0, 1))
    assert output_sizes(x, window) == (5, 4)
    explicit = window_over(x, (3, 3), (1, 1), ((0, 2), (1, 0)))
    assert output_sizes(x, explicit) == (9, 6)


def test_only_maps_have_windows():
    with pytest.raises(ShapeError) as caught:
        window_over(TensorType((10,)), (3, 3), (1, 1), "half")
    assert caught.value.code == "E214"


def test_a_sequence_has_one_axis():
    x = TensorType((3, 9))
    window = window_over(x, (3,), (2,), "same")
    assert window.padding == ((1, 1),) and window.dilation == (1,)
    assert output_sizes(x, window) == (5,)
    assert output_sizes(x, window_over(x, (3,), (1,), ((2, 0),), (2,))) == (7,)


@pytest.mark.parametrize(
    "shape, kernel, wanted",
    [((10,), (3,), "a sequence"), ((3, 9), (3, 3), "a map"), ((3, 9, 9), (3,), "a sequence")],
)
def test_axes_that_do_not_suit_are_named(shape, kernel, wanted):
    with pytest.raises(ShapeError) as caught:
        window_over(TensorType(shape), kernel, (1,) * len(kernel), "half")
    assert caught.value.code == "E214"
    assert wanted in caught.value.message.format(**caught.value.values)


def test_in_memory_a_sequence_is_a_map_of_one_row():
    x = TensorType((3, 9))
    window = window_over(x, (3,), (2,), ((1, 2),), (2,), ceil=True)
    row = over_a_map(window)
    assert as_map(x).shape == (3, 1, 9)
    assert row == Window((1, 3), (1, 2), ((0, 0), (1, 2)), (1, 2), ceil=True)
    assert output_sizes(as_map(x), row) == (1, *output_sizes(x, window))
    assert over_a_map(row) is row and as_map(as_map(x)) == as_map(x)


def test_the_report_of_a_sequence_has_one_axis():
    """r = 1 + 2, j = 2; then 3 + 4*2 = 11; a position that no window reaches is spoken of."""
    chain = "POOL(3, S=2) - CONV1D(2, F=5, P=1) - AVGPOOL"
    network = compile_text(f"input 3@32\nnet A = {chain}\n")
    rows = measure(network.graph).rows
    assert [row.field.size for row in rows] == [(3,), (11,), (13,)]
    assert [row.output.shape for row in rows] == [(3, 15), (2, 13), (2, 6)]
    messages = [warning.message for warning in network.warnings]
    assert messages == [
        "(32-3+0)/2+1 = 15.5: drops 1 position",
        "(13-2+0)/2+1 = 6.5: drops 1 position",
    ]
    assert "L2 = (L1 - F + 2P)/S + 1 = (32 - 3 + 0)/2 + 1 = 15.5" in explain(rows[0], Notation.CHW)
