"""Where the parser stopped, as the slips look at it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from lark import Token
from lark.parsers.lalr_interactive_parser import InteractiveParser

from convdsl.source import Span
from convdsl.syntax.grammar import grammar
from convdsl.syntax.word import CLOSING, END, OPENING, Word


@dataclass(frozen=True)
class Situation:
    """Where the parser stopped: at ``words[index]``, having begun at ``words[begin]``."""

    words: list[Word]
    index: int
    begin: int
    start: str

    @cached_property
    def _parser(self) -> InteractiveParser:
        """The parser as it was before that word: trying to take it may have reduced too much."""
        parser = grammar().parse_interactive(start=self.start)
        for word in self.words[self.begin : self.index]:
            parser.feed_token(cast(Token, word))
        return parser

    @property
    def word(self) -> Word:
        return self.words[self.index]

    def back(self, steps: int) -> Word | None:
        """The word ``steps`` before the one in question, if the parser has read it."""
        return self.words[self.index - steps] if self.index - steps >= self.begin else None

    @property
    def last(self) -> Word | None:
        return self.back(1)

    @cached_property
    def accepts(self) -> frozenset[str]:
        """Terminals that could stand here."""
        return frozenset(self._parser.accepts())  # type: ignore[no-untyped-call]

    @property
    def stack(self) -> list[Any]:
        """Words and finished AST nodes of constructs not yet complete, outermost first."""
        stack: list[Any] = self._parser.parser_state.value_stack
        return stack

    @cached_property
    def opening(self) -> Word | None:
        """The innermost bracket that is open."""
        closed = 0
        for value in reversed(self.stack):
            if is_word(value, *CLOSING):
                closed += 1
            elif is_word(value, *OPENING):
                if closed == 0:
                    return cast(Word, value)
                closed -= 1
        return None

    @property
    def in_chain(self) -> bool:
        """A chain could go on here (the arrow joins layers and nothing else)."""
        return "ARROW" in self.accepts

    @property
    def at_end(self) -> bool:
        return self.word.type == END or self.word.starts_statement

    @property
    def gap(self) -> Span:
        """The empty place behind the last word."""
        end = self.last.span.end if self.last else self.word.span.start
        return Span(self.word.span.source, end, end)


def is_word(value: Any, *types: str) -> bool:
    """Whether a value of the parser's stack is a word of one of these types."""
    return isinstance(value, Word) and value.type in types
