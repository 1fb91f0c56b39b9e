"""What the compiler has to say to its user, as data; `convdsl.report.render` makes text of it."""

from dataclasses import dataclass

from convdsl.source import Span


@dataclass(frozen=True, slots=True)
class Label:
    """A place and the few words that explain its part in the matter (may be empty)."""

    span: Span
    text: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of the expansion that led to the place: a block call or a repetition.

    ``text`` is ``bottleneck(w=128, s=2)`` or ``repetition 2 of 4``; for a repetition,
    ``repetition`` holds (number from 1, count) and ``span`` the whole repeated item.
    """

    text: str
    span: Span
    repetition: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. The first label is the place reported; ``E`` codes are errors, ``W`` warnings.

    ``message`` is lower-case without a full stop; ``help`` is an imperative that mends it.
    """

    code: str
    message: str
    labels: tuple[Label, ...] = ()
    frames: tuple[Frame, ...] = ()
    help: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        return self.code.startswith("E")


class CompileError(ValueError):
    """Raised with every diagnostic of a failed compilation; ``str()`` gives their messages."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...] | list[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(_headline(d) for d in self.diagnostics if d.is_error))


def _headline(diagnostic: Diagnostic) -> str:
    place = f"{diagnostic.labels[0].span}: " if diagnostic.labels else ""
    advice = f" ({diagnostic.help})" if diagnostic.help else ""
    return f"{place}{diagnostic.code}: {diagnostic.message}{advice}"
