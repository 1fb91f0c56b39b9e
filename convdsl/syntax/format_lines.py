"""Laid-out lines -> text: too long ones are split, notes and comments stand below each other.

A line is words with the space before each. Assumes that joints, branches and brackets of groups
are placed already; only what is left, lists of arguments and expressions, is broken here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

WIDTH = 100
# Lines longer than these do not push the notes and comments of the others to the right.
NOTE_COLUMN = 76
COMMENT_COLUMN = 84
STEP = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """A word of a line. level: the line may be broken before it, low levels first; 0: never.

    mark: ``note`` for ``::``, ``end`` for what may follow a note that ends the line.
    """

    text: str
    space: str = ""
    level: int = 0
    mark: str = ""


@dataclass(slots=True)
class Line:
    """indent: of its first word; hang: of what is broken off it. chain: whose notes align.

    statement: whose comments align. A line without pieces is a comment or nothing.
    """

    indent: int
    hang: int
    statement: int
    chain: int = 0
    after_blank: bool = False
    pieces: list[Piece] = field(default_factory=list)
    comment: str = ""

    @property
    def note(self) -> int | None:
        """Where the note begins that the line ends in, perhaps with a head behind it."""
        marks = [piece.mark for piece in self.pieces]
        at = len(marks) - 1
        while at > 0 and marks[at] == "end":
            at -= 1
        return at if at > 0 and marks[at] == "note" else None

    @property
    def width(self) -> int:
        words = sum(len(piece.space) + len(piece.text) for piece in self.pieces)
        return self.indent + words + (self.note is not None)


def render(lines: Iterable[Line]) -> str:
    """The text of the lines, each ended by a line feed."""
    split = [part for line in lines for part in _split(line, 0)]
    codes = _with_notes(split)
    rows = _with_comments(split, codes)
    return "".join(
        ("\n" if line.after_blank and number else "") + row.rstrip() + "\n"
        for number, (line, row) in enumerate(zip(split, rows, strict=True))
    )


def _split(line: Line, level: int) -> list[Line]:
    """The line, or if it is too long several, broken at the lowest level above ``level``."""
    levels = {piece.level for piece in line.pieces[1:] if piece.level > level}
    if line.width <= WIDTH or not levels:
        return [line]
    level = min(levels)
    parts: list[list[Piece]] = [[]]
    indent = line.indent
    for segment in _segments(line.pieces, level):
        width = sum(len(piece.space) + len(piece.text) for piece in segment)
        used = sum(len(piece.space) + len(piece.text) for piece in parts[-1])
        if parts[-1] and indent + used + width > WIDTH:
            parts.append([replace(segment[0], space="", level=0), *segment[1:]])
            indent = line.hang
        else:
            parts[-1] += segment
    lines = [replace(line, pieces=pieces, comment="") for pieces in parts]
    for later in lines[1:]:
        later.indent, later.after_blank = line.hang, False
    lines[-1].comment = line.comment
    return [shorter for part in lines for shorter in _split(part, level)]


def _segments(pieces: list[Piece], level: int) -> list[list[Piece]]:
    segments: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.level == level and segments[-1]:
            segments.append([])
        segments[-1].append(piece)
    return segments


def _with_notes(lines: list[Line]) -> list[str]:
    """The code of every line, notes at the ends of a chain's lines in one column."""
    columns: dict[int, int] = {}
    parts = []
    for line in lines:
        at = line.note
        words = [piece.space + piece.text for piece in line.pieces]
        code = " " * line.indent + "".join(words[:at])
        note = "".join(words[at:]).lstrip() if at is not None else ""
        parts.append((code, note))
        if note and len(code) <= NOTE_COLUMN:
            columns[line.chain] = max(columns.get(line.chain, 0), len(code) + 2)
    return [
        _aligned(code, note, columns.get(line.chain, 0)) if note else code
        for line, (code, note) in zip(lines, parts, strict=True)
    ]


def _with_comments(lines: list[Line], codes: list[str]) -> list[str]:
    """Trailing comments of a statement in one column, so those of neighbours on a line each."""
    rows: list[str] = []
    blocks = _Blocks(Counter(line.statement for line in lines))
    for _, block in groupby(zip(lines, codes, strict=True), key=blocks):
        members = list(block)
        widths = [len(code) for line, code in members if line.comment and line.pieces]
        column = max((width for width in widths if width <= COMMENT_COLUMN), default=0) + 2
        rows += [
            _aligned(code, line.comment, column)
            if line.comment and line.pieces
            else code + line.comment
            for line, code in members
        ]
    return rows


class _Blocks:
    """Numbers runs of lines whose comments align, as a key for `groupby`.

    A statement is such a run; so are neighbours of one commented line each.
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self.sizes = sizes
        self.number = 0
        self.last: Line | None = None

    def __call__(self, pair: tuple[Line, str]) -> int:
        line, last = pair[0], self.last
        if last is not None and line.statement != last.statement:
            short = self.sizes[line.statement] == self.sizes[last.statement] == 1
            if not (short and line.comment and last.comment) or line.after_blank:
                self.number += 1
        self.last = line
        return self.number


def _aligned(code: str, more: str, column: int) -> str:
    """``more`` at the column, or two blanks behind the code where that does not fit."""
    fits = len(code) + 2 <= column and column + len(more) <= WIDTH
    return code.ljust(column if fits else len(code) + 2) + more
