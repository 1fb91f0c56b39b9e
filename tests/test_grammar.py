"""grammars/cnn.lark: no conflicts, every text splits into tokens, generated programs parse."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark
from lark.exceptions import GrammarError

from convdsl.diagnostics import CompileError
from convdsl.source import Source, Span
from convdsl.syntax.grammar import STARTS, grammar, grammar_path
from convdsl.syntax.parser import parse, parse_expression
from convdsl.syntax.word import KEYWORDS

TEXT = grammar_path().read_text(encoding="utf-8")


def build(text: str, lexer: str = "basic") -> Lark:
    return Lark(text, parser="lalr", lexer=lexer, start=list(STARTS), strict=True)


@pytest.mark.parametrize("lexer", ["basic", "contextual"])
def test_no_conflicts(lexer: str) -> None:
    build(TEXT, lexer)


def test_strict_mode_would_see_a_conflict() -> None:
    trap = TEXT.replace("STAR integer  ", "STAR expr  ")
    assert trap != TEXT
    with pytest.raises(GrammarError):
        build(trap)


def test_every_keyword_is_reserved() -> None:
    for keyword in KEYWORDS:
        with pytest.raises(CompileError):
            parse(Source("t.cnn", f"let {keyword} = 1"))
        parse(Source("t.cnn", f"let {keyword}s = 1"))


def test_tables_are_cached_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVDSL_CACHE", str(tmp_path / "cache"))
    fresh = grammar.__wrapped__()
    (cached,) = (tmp_path / "cache").iterdir()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    again = grammar.__wrapped__()
    assert again.source_path == "<deserialized>" != fresh.source_path
    cached.write_bytes(b"broken")
    assert grammar.__wrapped__().source_path != "<deserialized>"


def test_a_folder_others_can_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("CONVDSL_CACHE", str(tmp_path))
    grammar.__wrapped__()
    assert list(tmp_path.iterdir()) == []


def check_spans(tree: Any) -> None:
    """Spans start and end on a word and lie within their parent's."""
    stack: list[tuple[Any, int, float]] = [(tree, 0, float("inf"))]
    while stack:
        node, start, end = stack.pop()
        if isinstance(node, tuple):
            stack += [(child, start, end) for child in node]
        elif dataclasses.is_dataclass(node) and not isinstance(node, Source | Span):
            span = getattr(node, "span", None)
            if span is not None:
                assert start <= span.start < span.end <= end
                assert span.text == span.text.strip()
                start, end = span.start, span.end
            fields = dataclasses.fields(node)
            stack += [(getattr(node, f.name), start, end) for f in fields]


# Words are set apart by blanks, and drawn from a few: the point is how rules combine.
TERMINALS = {
    "NAME": st.sampled_from([" a ", " CONV # c\n", "\r\n x1\t"]),
    "INT": st.sampled_from([" 1 ", " 64 "]),
    "FLOAT": st.sampled_from([" 0.5 ", " 1e-3 "]),
    "DIMS": st.sampled_from([" 3x5 ", " 32x32x3 "]),
    "STRING": st.sampled_from(["'a'", '"b c"']),
    "COMPARISON": st.sampled_from(["==", "<"]),
    **{word.upper(): st.just(f" {word} ") for word in KEYWORDS},
}


# Expressions fill the generator's budget of depth, so programs get plain ones and
# expressions are drawn by themselves.
EXPR = "?expr: conjunction (OR conjunction)*"
PLAIN = TEXT.replace(EXPR, "?expr: integer | name | LPAR expr RPAR -> parenthesised")
ALL_KINDS = list(HealthCheck)


def drawn(text: str, start: str) -> st.SearchStrategy[str]:
    """Texts that the grammar ``text`` derives from ``start``."""
    lark = Lark(re.sub("%ignore.*", "", text), start=start)
    names = {terminal.name for terminal in lark.terminals}
    return from_lark(lark, start=start, explicit={k: v for k, v in TERMINALS.items() if k in names})


@settings(max_examples=40, suppress_health_check=ALL_KINDS)
@given(drawn(PLAIN, "program"))
def test_generated_programs(text: str) -> None:
    try:
        program = parse(Source("t.cnn", text))
    except CompileError as error:
        # what a rule allows and the tree does not: a shape's number of sizes, limits
        assert {d.code for d in error.diagnostics} <= {"E107", "E304"}, text
    else:
        check_spans(program.statements)


@settings(max_examples=25, suppress_health_check=ALL_KINDS)
@given(drawn(TEXT, "expr"))
def test_generated_expressions(text: str) -> None:
    check_spans(parse_expression(Source("t.cnn", text)))


def test_programs_are_drawn_with_plain_expressions() -> None:
    assert PLAIN != TEXT


WORDS = (
    "CONV RELU ( ) [ ] { } | - -> * ? :: as @ . .. , 3 N 0.5 3x3 32x32x3 'a' + // == in else not"
)
PIECES = [
    *WORDS.split(),
    "net a =",
    "let N =",
    "input",
    "block f(k) =",
    "\n",
    "\nnet b =",
    "é",
    "$",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_row_of_words_parses_or_is_explained(words: list[str]) -> None:
    text = " ".join(words)
    try:
        program = parse(Source("t.cnn", text))
    except CompileError as error:
        for diagnostic in error.diagnostics:
            assert diagnostic.code.startswith("E")
            for label in diagnostic.labels:
                assert 0 <= label.span.start <= label.span.end <= len(text)
    else:
        check_spans(program.statements)
