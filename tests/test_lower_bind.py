"""Values of arguments and lets: which belongs to which, from where, and how it is shown."""

import numpy as np

from tests.test_lower import codes, layers, output


def test_an_argument_by_place_belongs_before_named_ones() -> None:
    assert codes("input 8x8x3\nnet a = CONV(F=3, 4)") == ["E201"]
    assert codes("input 8x8x3\nnet a = CONV(4, 3, 1, 1, 1, 1, true, 1, 1)") == ["E201"]
    assert codes("input 8x8x3\nblock b(k, f) = CONV(k, f)\nnet a = b(f=3, 4)") == ["E201"]


def test_nested_padding_is_shown_as_it_is_written() -> None:
    text = "input 8x8x3\nnet a = CONV(2, P=((0, 1), (1, 0))) - CONV(2, F=(3, 5))"
    assert layers(text) == ["CONV(2, P=((0, 1), (1, 0)))", "CONV(2, F=3x5)"]


def test_values_given_from_python() -> None:
    text = "input 8x8x3\nlet N = 2\nnet a = CONV(2, P=N)"
    for value, size in ((np.int64(0), "6x6x2"), ("same", "8x8x2"), ([0, 1], "6x8x2")):
        assert output(text, lets={"N": value}) == size
    for value in (None, {}, b"x", "3", float("nan"), 2**63, [1], (None, 1)):
        assert "E227" in codes(text, lets={"N": value})


def test_a_let_that_uses_a_later_one() -> None:
    text = "input 8\nlet a = b + 1\nlet b = 4\nnet n = FC(a) - FC(b)"
    assert codes(text) == ["E205"]
    assert output(text, lets={"a": 3}) == "4"
