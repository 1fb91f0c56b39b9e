"""Text written piece by piece, each with the place it stands for -> the tree of that text, there.

A listing becomes a program in two steps: its words are written out as the language's, and the
parser reads those. What the parser finds, nodes and findings, is then moved from the written text
back to the listing, so that every later message points at what the lecture printed.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from convdsl.diagnostics import CompileError
from convdsl.source import Source, Span
from convdsl.syntax.ast import Program
from convdsl.syntax.parser import parse

_T = TypeVar("_T")


@dataclass(slots=True)
class Transcript:
    """A program being written for ``source``, the listing."""

    source: Source
    text: str = ""
    _starts: list[int] = field(default_factory=list)
    _places: list[Span] = field(default_factory=list)

    def write(self, text: str, place: Span) -> None:
        """Add text that stands for ``place`` of the listing."""
        self._starts.append(len(self.text))
        self._places.append(place)
        self.text += text

    def parse(self) -> Program:
        """The written program with the listing's places. Raises CompileError, likewise."""
        try:
            statements = parse(Source(self.source.name, self.text)).statements
        except CompileError as error:
            raise CompileError(self._moved(error.diagnostics)) from None
        return Program(self.source, self._moved(statements))

    def _moved(self, value: _T) -> _T:
        """``value`` with every span in it moved to the listing; it is a tree of dataclasses."""
        moved: Any = value
        if isinstance(value, Span):
            moved = self._place(value)
        elif isinstance(value, tuple):
            moved = tuple(map(self._moved, value))
        elif is_dataclass(value) and not isinstance(value, type):
            changes = {f.name: self._moved(getattr(value, f.name)) for f in fields(value)}
            moved = replace(value, **changes)
        return cast(_T, moved)

    def _place(self, span: Span) -> Span:
        """From the first to the last place that the written text in ``span`` stands for."""
        first = max(bisect_right(self._starts, span.start) - 1, 0)
        last = max(bisect_left(self._starts, span.end), first + 1)
        places = self._places[first:last]
        return Span(self.source, min(p.start for p in places), max(p.end for p in places))
