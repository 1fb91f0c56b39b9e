"""Diagnostics to text for people: the source line, carets, labels, the expansion, the help.

    error[E210]: ADD branches disagree: 28x28x512 and 56x56x256
     --> resnet.cnn:4:28
     4 | ... cbr(w, 3, s) ... | ID } - RELU
       |     ^ s=2 halves H, W  ^^ passes 56x56x256 through
     = in bottleneck(w=128, s=2), called at 9:6, repetition 2 of 4
     = help: project the shortcut

Assumes nothing of the source text: tabs, control characters and very long lines are handled.
"""

from collections.abc import Iterable, Sequence

from convdsl.diagnostics import Diagnostic, Frame, Label
from convdsl.report.terminal import Style, cells, counted
from convdsl.source import Source, Span

# A repeat inside a block inside a repeat ... can be long; the ends of the chain tell the story.
_MOST_FRAMES = 8
_MOST_SHOWN = 50
# Characters kept on both sides of a span when a line is too long, tried in this order.
_CONTEXTS = range(80, 2, -4)
_ELLIPSIS = "..."
PLAIN = Style()

Mark = tuple[int, int, str]  # start, end, text; columns or cells from 0


def render(diagnostic: Diagnostic, style: Style = PLAIN) -> str:
    """One diagnostic as several lines, without a line ending after the last."""
    kind, look = ("error", "red") if diagnostic.is_error else ("warning", "yellow")
    head = style.paint(f"{kind}[{diagnostic.code}]", look, "bold")
    lines = [f"{head}{style.paint(': ' + style.clean(diagnostic.message), 'bold')}"]
    digits = max((len(str(label.span.line)) for label in diagnostic.labels), default=1)
    pad = " " * digits
    for position, (source, labels) in enumerate(_by_source(diagnostic.labels)):
        arrow = style.paint(f"{pad}-->" if position == 0 else f"{pad}:::", "blue")
        lines.append(f"{arrow} {style.clean(str(labels[0].span))}")
        lines += _quote(source, labels, digits, style, look)
    notes = _expansion(diagnostic.frames, diagnostic.labels)
    notes += diagnostic.notes
    equals = style.paint(f"{pad}=", "blue")
    lines += [f"{equals} {style.clean(note)}" for note in notes]
    if diagnostic.help:
        lines.append(
            f"{equals} {style.paint('help:', 'green', 'bold')} {style.clean(diagnostic.help)}"
        )
    return "\n".join(lines)


def render_all(diagnostics: Iterable[Diagnostic], style: Style = PLAIN) -> str:
    """The diagnostics, a blank line between two, then the summary of all; empty for none.

    Of very many the first are shown, errors before warnings: nobody reads on.
    """
    found = tuple(diagnostics)
    if not found:
        return ""
    first = found if len(found) <= _MOST_SHOWN else sorted(found, key=lambda d: not d.is_error)
    parts = [render(d, style) for d in first[:_MOST_SHOWN]]
    if len(found) > _MOST_SHOWN:
        parts.append(f"... and {counted(len(found) - _MOST_SHOWN, 'finding')} more")
    return "\n\n".join([*parts, summary(found)]) + "\n"


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """``2 errors, 1 warning``; empty for none."""
    errors = sum(d.is_error for d in diagnostics)
    warnings = len(diagnostics) - errors
    parts = [(errors, "error"), (warnings, "warning")]
    return ", ".join(counted(number, noun) for number, noun in parts if number)


def _by_source(labels: tuple[Label, ...]) -> list[tuple[Source, list[Label]]]:
    groups: list[tuple[Source, list[Label]]] = []
    for label in labels:
        for source, members in groups:
            if source is label.span.source:
                members.append(label)
                break
        else:
            groups.append((label.span.source, [label]))
    return groups


def _quote(source: Source, labels: list[Label], digits: int, style: Style, look: str) -> list[str]:
    """The lines of one source that carry labels, in order; ``...`` stands for those between."""
    gutter = style.paint(f" {'':>{digits}} |"[1:], "blue")
    by_line: dict[int, list[Label]] = {}
    for label in labels:
        by_line.setdefault(label.span.line, []).append(label)
    numbers = sorted(by_line)
    lines: list[str] = []
    for place, number in enumerate(numbers):
        if place and number > numbers[place - 1] + 1:
            lines.append(style.paint(_ELLIPSIS, "blue"))
        line = source.line(number)
        marks = sorted(_mark(label, line) for label in by_line[number])
        shown, placed = _excerpt(line, marks, style)
        lines.append(f"{style.paint(f'{number:>{digits}} |', 'blue')} {shown}".rstrip())
        lines += [f"{gutter} {style.paint(row, look)}" for row in _underline(placed, style)]
    return [f" {line}" for line in lines]


def _mark(label: Label, line: str) -> Mark:
    """Columns of a label in its first line; a span over several lines ends with the line."""
    start = min(label.span.column - 1, len(line))
    end = min(start + max(1, label.span.end - label.span.start), max(len(line), start + 1))
    last = label.span.source.position(max(label.span.start, label.span.end - 1))[0]
    more = f"(to line {last})" if last > label.span.line else ""
    return start, end, " ".join(filter(None, (label.text, more)))


def _excerpt(line: str, marks: list[Mark], style: Style) -> tuple[str, list[Mark]]:
    """The line as shown and the marks in cells of it; far-off stretches become ``...``."""
    room = style.width - 8
    for context in (room, *_CONTEXTS):
        kept = _kept(line, marks, context)
        shown, place = _assemble(line, kept, style)
        if cells(shown) <= room:
            break
    placed = []
    for start, end, text in marks:
        left, right = place[start], place[min(end, len(line))]
        placed.append((left, max(right, left + 1), text))
    return shown, placed


def _kept(line: str, marks: list[Mark], context: int) -> list[tuple[int, int]]:
    """Stretches of columns to show: ``context`` characters around both ends of every mark."""
    wanted = []
    for start, end, _ in marks:
        for column in (start, end):
            wanted.append((max(0, column - context), min(len(line), column + context)))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(wanted):
        if merged and first - merged[-1][1] <= len(_ELLIPSIS) + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _assemble(line: str, kept: list[tuple[int, int]], style: Style) -> tuple[str, dict[int, int]]:
    """The kept stretches joined by ``...``, and the cell at which each of their columns is shown.

    Touches nothing but the kept columns: a line may be a megabyte long.
    """
    place: dict[int, int] = {}
    pieces: list[str] = []
    width = 0
    for number, (first, last) in enumerate(kept):
        if number or first > 0:
            dots = f" {_ELLIPSIS} " if number else f"{_ELLIPSIS} "
            pieces.append(dots)
            width += len(dots)
        for column in range(first, last):
            char = style.char(line[column])
            place[column] = width
            pieces.append(char)
            width += cells(char)
        place[last] = width
    if kept[-1][1] < len(line):
        pieces.append(f" {_ELLIPSIS}")
    return "".join(pieces), place


def _underline(marks: list[Mark], style: Style) -> list[str]:
    """Rows under the source line: all carets, then the texts, each where it finds room."""
    first: list[str] = []
    for start, end, _ in marks:
        _write(first, start, "^" * (end - start))
    waiting: list[tuple[int, str]] = []
    for start, end, text in reversed(marks):
        text = style.clean(text)
        beside = first[end : end + len(text) + 3]
        if text and all(char == " " for char in beside):
            _write(first, end + 1, text)
        elif text:
            waiting.append((start, text))
    rows = ["".join(first)]
    for position, (start, text) in enumerate(waiting):
        row: list[str] = []
        for other, _ in waiting[position + 1 :]:
            _write(row, other, "|")
        _write(row, start, text)
        rows.append("".join(row))
    return rows


def _write(row: list[str], at: int, text: str) -> None:
    row.extend(" " * (at + len(text) - len(row)))
    row[at : at + len(text)] = text


def _expansion(frames: tuple[Frame, ...], labels: tuple[Label, ...]) -> tuple[str, ...]:
    """A line per block call from the inside out, with the repetitions the call stands in.

    Frames come from the outside in, as expansion pushed them.
    """
    here = labels[0].span.source if labels else None
    lines: list[str] = []
    inner = ""  # the call a repetition frame belongs to, not yet written
    for frame in reversed(frames):
        place = _place(frame.span, here)
        if frame.repetition is None:
            if inner:
                lines.append(inner)
            inner = f"in {frame.text}, called at {place}"
        elif inner:
            inner += f", {frame.text}"
        else:
            inner = f"in {frame.text} of the group at {place}"
    if inner:
        lines.append(inner)
    if len(lines) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        hidden = len(lines) - 2 * half
        lines[half:-half] = [f"... {counted(hidden, 'more call')} ..."]
    return tuple(lines)


def _place(span: Span, here: Source | None) -> str:
    if span.source is here:
        return f"{span.line}:{span.column}"
    return str(span)
