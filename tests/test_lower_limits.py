"""The budget of an expansion: short programs that ask for endless work end at a limit."""

import pytest

from convdsl.diagnostics import CompileError
from convdsl.lower import Limits
from tests.test_lower import codes, lowered, output


@pytest.mark.parametrize(
    "text",
    [
        "RELU*1000000000",
        "((RELU)*1000000)*1000000",
        "(RELU?(1 == 2))*1000000000",
        "RELU*(k in 1 .. 1000000000000)",
        "FC(2**62)",
        "FC(2**40)",
        "FC(9**99999999)",
        "FC(30 * 400000000000000000)",
    ],
)
def test_bombs_end_at_a_limit(text: str) -> None:
    assert codes(f"input 8\nnet a = {text}") == ["E304"]


def test_doubling_blocks_end_at_a_limit() -> None:
    lines = ["block b0 = RELU - RELU"]
    lines += [f"block b{k} = b{k - 1} - b{k - 1}" for k in range(1, 50)]
    assert codes("\n".join(["input 8", *lines, "net a = b49"])) == ["E304"]


def test_deep_calls_end_at_a_limit_not_at_pythons() -> None:
    def text(depth: int) -> str:
        lines = ["block b0 = RELU"]
        lines += [f"block b{k} = [(b{k - 1})*1]" for k in range(1, depth)]
        return "\n".join(["input 8", *lines, f"net a = b{depth - 1}"])

    assert len(lowered(text(24)).graph.nodes) == 1
    assert codes(text(300)) == ["E304"]
    plain = ["block b0 = RELU", *(f"block b{k} = b{k - 1}" for k in range(1, 65))]
    assert len(lowered("\n".join(["input 8", *plain[:64], "net a = b63"])).graph.nodes) == 1
    assert codes("\n".join(["input 8", *plain, "net a = b64"])) == ["E304"]


def test_many_postfixes_and_branches_do_not_exhaust_the_stack() -> None:
    assert codes("input 8\nnet a = RELU" + "*1" * 5000) == ["E304"]
    nested = "ADD{ ID | " * 40 + "ID" + " }" * 40
    assert len(lowered(f"input 8\nnet a = {nested}").graph.nodes) == 81


def test_the_deepest_program_allowed_leaves_room_on_pythons_stack() -> None:
    sum_ = "(" * 60 + "1" + " + 1)" * 60
    lines = ["block b0 = FC(" + sum_ + ")"]
    lines += [f"block b{k} = ADD{{ FC(61) | b{k - 1} }}" for k in range(1, 60)]
    assert output("\n".join(["input 8", *lines, "net a = b59"])) == "61"


def test_many_errors_end_at_a_limit() -> None:
    net = " - ".join(f"None{k}" for k in range(3000))
    found = codes(f"input 8\nnet a = {net}")
    assert found == ["E200"] * 100 + ["E304"]


def test_long_conditions_in_long_loops_end_at_a_limit() -> None:
    test = " and ".join(f"({' + '.join(['1'] * 50)} == 50)" for _ in range(50))
    assert codes(f"input 8\nnet a = RELU?({test})*9999") == ["E304"]


def test_limits_can_be_set() -> None:
    assert codes("input 8\nnet a = RELU*4", limits=Limits(layers=3)) == ["E304"]


def test_a_count_beyond_the_layers_is_refused_before_it_is_expanded() -> None:
    """Not even one step is made: with a budget of one step only the count can be too large."""
    with pytest.raises(CompileError) as caught:
        lowered("input 8\nnet a = RELU*(k in 1 .. 10001)", limits=Limits(steps=1))
    assert caught.value.diagnostics[0].message == "more than 10,000 repetitions"
