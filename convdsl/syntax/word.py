"""A word: one token of the grammar with the place it was read from."""

from dataclasses import dataclass

from convdsl.diagnostics import Diagnostic
from convdsl.source import Span

OPENING = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
CLOSING = frozenset(OPENING.values())
STATEMENTS = ("import", "let", "default", "block", "module", "input", "net", "output")
KEYWORDS = frozenset(STATEMENTS) | {"as", "in", "else", "or", "and", "not"}
END = "$END"


@dataclass(frozen=True, slots=True)
class Word:
    """A token. ``type`` is the terminal's name; ``problem`` is set if it can never be right."""

    type: str
    text: str
    span: Span
    problem: Diagnostic | None = None

    @property
    def starts_line(self) -> bool:
        source = self.span.source
        before = source.text[source.text.rfind("\n", 0, self.span.start) + 1 : self.span.start]
        return not before.strip()

    @property
    def starts_statement(self) -> bool:
        """A statement's keyword at the start of a line: where the parser can begin anew."""
        return self.text in STATEMENTS and self.starts_line
