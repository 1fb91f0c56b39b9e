"""Collects findings, each place once, and the exceptions that carry one out of an expression."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from convdsl.diagnostics import CompileError, Diagnostic, Frame, Label
from convdsl.lower.budget import Exhausted, exceeded
from convdsl.source import Span

#: names that differ more in length are not compared, and no more than so many are
REACH, MOST = 8, 300


class Failed(Exception):  # noqa: N818  (a state, not a kind of error)
    """The item in hand cannot be lowered, for the reason given. Who catches it reports it."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Poisoned(Exception):  # noqa: N818  (a state, not a kind of error)
    """The item depends on one that failed before; there is nothing more to say of it."""


def failure(
    code: str, message: str, span: Span, help: str | None = None, notes: tuple[str, ...] = ()
) -> Failed:
    """A `Failed` with one label; the expansion stack is added by who reports it."""
    return Failed(Diagnostic(code, message, (Label(span),), help=help, notes=notes))


class Findings:
    """Errors and warnings; a second one of a code at one place is dropped.

    A repeated or often called item therefore reports once, with its first expansion stack.
    """

    def __init__(self, limit: int) -> None:
        self._found: dict[object, Diagnostic] = {}
        self._limit = limit
        self._errors = 0

    def add(self, diagnostic: Diagnostic, frames: tuple[Frame, ...] = ()) -> None:
        if frames and not diagnostic.frames:
            diagnostic = Diagnostic(
                diagnostic.code,
                diagnostic.message,
                diagnostic.labels,
                frames,
                diagnostic.help,
                diagnostic.notes,
            )
        place = diagnostic.labels[0].span if diagnostic.labels else diagnostic.message
        if (diagnostic.code, place) in self._found:
            return
        if diagnostic.is_error and self._errors == self._limit:
            first = diagnostic.labels[0].span if diagnostic.labels else None
            raise Exhausted(exceeded("errors", self._limit, first))
        self._errors += diagnostic.is_error
        self._found[diagnostic.code, place] = diagnostic

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        for diagnostic in diagnostics:
            self.add(diagnostic)

    @property
    def all(self) -> tuple[Diagnostic, ...]:
        """Everything found, in the order of the text, file by file."""
        files: dict[str, int] = {}
        for diagnostic in self._found.values():
            files.setdefault(_file(diagnostic), len(files))
        return tuple(sorted(self._found.values(), key=lambda d: (files[_file(d)], _offset(d))))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.all if d.is_error)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.all if not d.is_error)

    def raise_errors(self) -> None:
        """Raises CompileError with everything found if an error is among it."""
        if self.errors:
            raise CompileError(self.all)


def _file(diagnostic: Diagnostic) -> str:
    return diagnostic.labels[0].span.source.name if diagnostic.labels else ""


def _offset(diagnostic: Diagnostic) -> int:
    return diagnostic.labels[0].span.start if diagnostic.labels else 0


def suggestion(name: str, candidates: Iterable[str]) -> str | None:
    """``did you mean X?`` for the candidate nearest to ``name``, None if none is near.

    Case counts for nothing; a candidate that begins or ends the name counts as near
    (``Conv2D`` and CONV, ``MaxPool`` and POOL).
    """
    wanted = name.upper()[:100]
    near = islice((c for c in candidates if abs(len(c) - len(name)) <= REACH), MOST)
    by_upper = {candidate.upper(): candidate for candidate in sorted(near)}
    if wanted in by_upper:
        return f"did you mean {by_upper[wanted]}?"
    parts = [c for c in by_upper if len(c) > 2 and (wanted.startswith(c) or wanted.endswith(c))]
    best = sorted(parts, key=len)[-1:] or get_close_matches(wanted, by_upper, 1, 0.65)
    return f"did you mean {by_upper[best[0]]}?" if best else None
