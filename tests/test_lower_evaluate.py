"""Expressions: exact arithmetic, conditions, words, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convdsl.diagnostics import CompileError
from convdsl.lower import Limits, constant
from convdsl.syntax.parser import parse_value


def value(text: str) -> object:
    return constant(parse_value(text), Limits())


def code(text: str) -> str:
    with pytest.raises(CompileError) as caught:
        value(text)
    (found,) = caught.value.diagnostics
    return found.code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4", 3),
        ("10 - 3 - 2", 5),
        ("12 / 4 / 3", 1),
        ("7 // 2", 3),
        ("-7 // 2", -4),
        ("2 ** 10", 1024),
        ("2 ** 62 + (2 ** 62 - 1)", 2**63 - 1),
        ("7 / 2.0", 3.5),
        ("0.5 * 4", 2.0),
        ("not 3 < 4", False),
        ("1 < 2 and 2 < 1 or true", True),
        ("false and 1 / 0 == 1", False),
        ("true or 1 / 0 == 1", True),
        ("1 == 1.0", True),
        ("3x5", (3, 5)),
        ("(3, 5) == 3x5", True),
        ("(1, (2, same))", (1, (2, "same"))),
        ("same == same", True),
        ("same != half", True),
        ('"text"', "text"),
        ("0.0 ** 0", 1.0),
    ],
)
def test_values(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 / 2", "E217"),
        ("1 / 0", "E217"),
        ("1 // 0", "E217"),
        ("1.0 / 0.0", "E217"),
        ("1 + true", "E218"),
        ("1 + 3x3", "E218"),
        ("-same", "E205"),
        ("1 + same", "E205"),
        ("1 == same", "E205"),
        ("1 == true", "E218"),
        ("not 1", "E218"),
        ("1 and true", "E218"),
        ("2 ** -1", "E218"),
        ("(-1.0) ** 0.5", "E218"),
        ("2 ** 63", "E304"),
        ("2 ** 2 ** 2 ** 2 ** 2 ** 2", "E304"),
        ("9 ** 999999999999999999", "E304"),
        ("2 ** 62 + 2 ** 62", "E304"),
        ("-2 ** 62 - 2 ** 62", "E304"),
        ("1e308 * 10", "E304"),
        ("0.0 ** -1", "E304"),
        ("1e200 ** 2", "E304"),
        ("@.C", "E226"),
    ],
)
def test_refusals(text: str, expected: str) -> None:
    assert code(text) == expected


small = st.integers(-50, 50)
operators = st.sampled_from(["+", "-", "*", "//"])


@given(first=small, rest=st.lists(st.tuples(operators, small.filter(bool)), max_size=6))
def test_arithmetic_is_pythons(first: int, rest: list[tuple[str, int]]) -> None:
    text = f"({first})" + "".join(f" {symbol} ({number})" for symbol, number in rest)
    assert value(text) == eval(text)


def test_tuples_inside_one_another_end_at_a_limit() -> None:
    assert code("(1, " * 20 + "2" + ")" * 20) == "E304"
