"""Rows to lines: equal iterations of a repeat that follow each other become one, marked ``x3``.

Iterations are equal when every row in them shows the same text, shapes, costs and fusion; the
receptive field may grow. The frames of `convdsl.ir.graph.Origin` tell which repeat a row is of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from convdsl.diagnostics import Frame
from convdsl.report.costs import Row


@dataclass(frozen=True, slots=True)
class Line:
    """A row as shown. ``last`` is the same row in the last iteration folded into it.

    marks: for every fold around the line, outermost first, how often it is repeated and whether
    the line is the fold's first.
    """

    row: Row
    last: Row
    marks: tuple[tuple[int, bool], ...] = ()

    @property
    def times(self) -> int:
        product = 1
        for count, _ in self.marks:
            product *= count
        return product


def unfolded(rows: Sequence[Row]) -> list[Line]:
    """A line for every row."""
    return [Line(row, row) for row in rows]


def folded(rows: Sequence[Row]) -> list[Line]:
    """Lines for the rows, with the runs of equal iterations folded at every depth."""
    return _fold(rows, 0, {row.number: row for row in rows})


def _fold(rows: Sequence[Row], depth: int, by_number: dict[int, Row]) -> list[Line]:
    lines: list[Line] = []
    for frame, group in groupby(rows, key=lambda row: _frame_key(row, depth)):
        members = list(group)
        if frame is None:
            lines += unfolded(members)
        elif _frame(members[0], depth).repetition is None:
            lines += _fold(members, depth + 1, by_number)
        else:
            iterations = [
                list(rows_of)
                for _, rows_of in groupby(members, key=lambda row: _frame(row, depth).repetition)
            ]
            for _, run in groupby(iterations, key=_signature):
                lines += _fold_run(list(run), depth, by_number)
    return lines


def _fold_run(run: list[list[Row]], depth: int, by_number: dict[int, Row]) -> list[Line]:
    lines = _fold(run[0], depth + 1, by_number)
    if len(run) == 1:
        return lines
    shift = run[-1][0].number - run[0][0].number
    return [
        replace(
            line,
            last=by_number[line.last.number + shift],
            marks=((len(run), place == 0), *line.marks),
        )
        for place, line in enumerate(lines)
    ]


def _frame(row: Row, depth: int) -> Frame:
    return row.origin.frames[depth]


def _frame_key(row: Row, depth: int) -> object:
    """Equal for rows of the same call or of the same repeat, whatever the iteration."""
    if depth >= len(row.origin.frames):
        return None
    frame = _frame(row, depth)
    place = (id(frame.span.source), frame.span.start, frame.span.end)
    return (place, frame.repetition[1]) if frame.repetition else (place, frame.text)


def _signature(rows: list[Row]) -> object:
    return [
        (
            row.origin.text,
            row.inputs,
            row.output,
            row.window,
            row.parameters,
            row.shared is None,
            row.macs,
            row.stored,
            row.kernel and row.kernel[1],
        )
        for row in rows
    ]
