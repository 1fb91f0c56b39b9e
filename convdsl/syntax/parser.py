"""Text -> AST (`convdsl.syntax.ast`), or every syntax error of the text.

After an error the parser begins anew at the next line that starts with a statement's keyword, so
each broken statement gives one finding. Nothing is looked up here: whether a name is a layer, a
block or nothing at all is for lowering to say, and so is a file without a net.
"""

from typing import Any, cast

from lark import Token
from lark.exceptions import UnexpectedToken

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Source, Span
from convdsl.syntax.ast import Default, Expr, Program, Shape
from convdsl.syntax.characters import check_characters
from convdsl.syntax.grammar import grammar
from convdsl.syntax.reader import MAX_BYTES, too_large
from convdsl.syntax.situation import Situation
from convdsl.syntax.slips import explain
from convdsl.syntax.word import END, Word
from convdsl.syntax.words import scan

#: no reader works through more; the rest is likely the echo of these
MAX_FINDINGS = 20


def parse(source: Source) -> Program:
    """The program a text says. Raises CompileError with all syntax errors found."""
    return Program(source, _parse(source, "program"))


def parse_expression(source: Source) -> Expr:
    """One expression, nothing around it. Raises CompileError."""
    return cast(Expr, _parse(source, "expr"))


def parse_value(text: str) -> Expr:
    """The value of ``-D NAME=VALUE``. Raises CompileError."""
    return parse_expression(Source("-D", text))


def parse_shape(text: str) -> Shape:
    """The shape of ``--input``: ``32x32x3``, ``3@32x32``, ``3@128`` or ``784``.

    Raises CompileError.
    """
    return cast(Shape, _parse(Source("--input", text), "shape"))


def parse_default(text: str) -> Default:
    """The layer and arguments of ``--default "NAME(key=value)"``. Raises CompileError."""
    return cast(Default, _parse(Source("--default", text), "default"))


def _parse(source: Source, start: str) -> Any:
    if len(source.text) > MAX_BYTES:
        raise too_large(source.name)
    check_characters(source)
    words = scan(source)
    if words[0].type == END:
        raise CompileError([_nothing(source, start)])
    findings: list[Diagnostic] = []
    begin = 0
    while True:
        result, failed = _parse_from(words, begin, start, findings)
        if failed is None:
            break
        # At least one word further on than where this attempt began.
        begin = next(
            (i for i in range(max(failed, begin + 1), len(words)) if words[i].starts_statement),
            len(words),
        )
        if start != "program" or begin == len(words) or len(findings) >= MAX_FINDINGS:
            break
    if findings:
        raise CompileError(findings)
    return result


def _parse_from(
    words: list[Word], begin: int, start: str, findings: list[Diagnostic]
) -> tuple[Any, int | None]:
    """The value of ``words[begin:]``, or a new finding and the index of the word it is about."""
    parser = grammar().parse_interactive(start=start)
    for index in range(begin, len(words)):
        word = words[index]
        if word.problem is not None:
            findings.append(word.problem)
            return None, index
        try:
            # The parser needs a token's type only; ours carry their spans to the AST.
            result = parser.feed_token(cast(Token, word))
        except UnexpectedToken:
            findings.append(explain(Situation(words, index, begin, start)))
            return None, index
        except CompileError as error:
            findings.extend(error.diagnostics)
            return None, index
    return result, None


def _nothing(source: Source, start: str) -> Diagnostic:
    what = {"program": "network", "expr": "value", "default": "layer"}.get(start, start)
    place = Label(Span(source, 0, 0))
    if start == "program":
        help = "write `input 32x32x3` and `net NAME = ...`, or one chain of layers"
        return Diagnostic("E110", "no network: nothing is written here", (place,), help=help)
    return Diagnostic("E100", f"the {what} is missing", (place,))
