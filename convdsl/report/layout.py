"""Cells to an aligned text table.

In a pipe the table is as wide as its contents. On a terminal it fits the terminal if it can:
columns that may go leave in their order until the others, cut where they may be, find room.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.report.terminal import Style, cells, shorten

_GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and how its cells are shown.

    right: aligned to the right, as numbers are. leaves: place in the order in which columns are
    left out where the terminal is too narrow, 0 for never. least: cells to which the column may
    be cut there, None for never.
    """

    heading: str
    right: bool = False
    leaves: int = 0
    least: int | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """Cells of one row; ``dim`` rows stand back on a terminal."""

    cells: tuple[str, ...]
    dim: bool = False


def lay_out(columns: Sequence[Column], rows: Sequence[TableRow], style: Style) -> str:
    """The table as text, a line ending after every line. Empty columns are left out."""
    texts = [[style.clean(text) for text in row.cells] for row in rows]
    widths = {
        i: max([cells(column.heading), *(cells(row[i]) for row in texts)])
        for i, column in enumerate(columns)
        if any(row[i] for row in texts)
    }
    if style.terminal:
        _fit(columns, widths, style.width)

    def line(row: Sequence[str]) -> str:
        return (" " * _GAP).join(_cell(row[i], w, columns[i]) for i, w in widths.items()).rstrip()

    lines = [
        style.paint(line([column.heading for column in columns]), "bold"),
        style.paint("-" * _total(widths), "dim"),
        *(
            style.paint(line(text), "dim") if row.dim else line(text)
            for row, text in zip(rows, texts, strict=True)
        ),
    ]
    return "".join(f"{text}\n" for text in lines)


def _cell(text: str, width: int, column: Column) -> str:
    text = shorten(text, width)
    space = " " * (width - cells(text))
    return space + text if column.right else text + space


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _fit(columns: Sequence[Column], widths: dict[int, int], room: int) -> None:
    """Drop and narrow columns until the room suffices; the widest that may be cut gives way."""
    for i in sorted((i for i in widths if columns[i].leaves), key=lambda i: columns[i].leaves):
        least = {k: min(width, columns[k].least or width) for k, width in widths.items()}
        if _total(least) <= room:
            break
        del widths[i]
    while _total(widths) > room:
        able = [i for i, width in widths.items() if width > (columns[i].least or width)]
        if not able:
            break
        widths[max(able, key=lambda i: widths[i])] -= 1
