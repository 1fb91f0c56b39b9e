"""Text -> words: the grammar's tokens with spans, and the findings a single word can give.

Assumes characters already checked. Limits that guard the parser and everything behind it are
enforced here: size, number of words, depth of brackets.
"""

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Source, Span
from convdsl.syntax.characters import describe
from convdsl.syntax.grammar import grammar
from convdsl.syntax.word import CLOSING, END, OPENING, Word

MAX_WORDS = 60_000
MAX_DEPTH = 64
MAX_DIGITS = 18
MAX_NAME = 100


def scan(source: Source) -> list[Word]:
    """All words, the last being the end of the text. Raises CompileError (E304)."""
    words: list[Word] = []
    depth = 0
    lexer = grammar().parse_interactive(source.text, start="program")
    for token in lexer.lexer_thread.lex(lexer.parser_state):  # type: ignore[no-untyped-call]
        start, text = token.start_pos or 0, str(token)
        span = Span(source, start, start + len(text))
        words.append(Word(token.type, text, span, _problem(token.type, text, span)))
        if token.type in OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise limit(span, f"brackets are nested deeper than {MAX_DEPTH}")
        elif token.type in CLOSING:
            depth = max(depth - 1, 0)
        if len(words) > MAX_WORDS:
            raise limit(span, f"the text has more than {MAX_WORDS:,} words")
    end = len(source.text)
    words.append(Word(END, "", Span(source, end, end)))
    return words


def limit(span: Span, message: str) -> CompileError:
    label = Label(span, "the limit is passed here")
    return CompileError([Diagnostic("E304", message, (label,), help="use repeats and blocks")])


def _problem(kind: str, text: str, span: Span) -> Diagnostic | None:
    if kind in ("INT", "DIMS"):
        if any(len(digits) > MAX_DIGITS for digits in text.split("x")):
            return _finding(
                "E111", f"the integer has more than {MAX_DIGITS} digits", span, "shorten it"
            )
    elif kind == "FLOAT":
        if float(text) == float("inf"):
            return _finding("E111", "the number is too large", span, "write one below 1.8e308")
    elif kind == "NAME":
        if len(text) > MAX_NAME:
            message = f"the name has more than {MAX_NAME} characters"
            return _finding("E112", message, span, "shorten it")
    elif kind == "FOREIGN":
        return _foreign(text, span)
    elif kind == "UNKNOWN":
        return _unknown(text, span)
    return None


def _foreign(text: str, span: Span) -> Diagnostic:
    at, char = next((i, c) for i, c in enumerate(text) if not c.isascii())
    place = Span(span.source, span.start + at, span.start + at + 1)
    if char.isdigit():
        return _finding("E111", f"{describe(char)} is no digit here", place, "write 0 to 9")
    if char.isalpha():
        message = f"`{text}` is not a usable name: {describe(char)} is no ASCII letter"
        return _finding("E112", message, span, "use the letters A to Z, digits and `_`")
    if char.isspace():
        return _finding("E109", f"{describe(char)} is no ordinary space", place, "type a space")
    return _finding("E109", f"{describe(char)} means nothing here", place, _advice(char))


def _advice(char: str) -> str:
    """What to type instead of a sign that word processors put in its place."""
    if char in "–—−‐‑":
        return "write `-`"
    if char in "“”„‘’":
        return 'write `"`'
    return {
        "×": "write `x` between sizes, `*` before a count",
        "→": "write `->`",
        "≤": "write `<=`",
        "≥": "write `>=`",
        "≠": "write `!=`",
    }.get(char, "remove it")


def _unknown(text: str, span: Span) -> Diagnostic:
    if text in "\"'":
        text_end = span.source.text.find("\n", span.start)
        end = text_end if text_end >= 0 else len(span.source.text)
        line = Span(
            span.source, span.start, span.start + len(span.source.text[span.start : end].rstrip())
        )
        return _finding(
            "E113", "the string does not end on its line", line, f"close it with {text}"
        )
    return _finding("E100", f"`{text}` means nothing here", span, "remove it")


def _finding(code: str, message: str, span: Span, help: str) -> Diagnostic:
    return Diagnostic(code, message, (Label(span),), help=help)
