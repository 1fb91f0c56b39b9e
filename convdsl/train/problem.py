"""What goes wrong with data, weights and runs, in the user's words."""

from collections.abc import Iterator
from contextlib import contextmanager

from convdsl.diagnostics import Diagnostic


class TrainingError(ValueError):
    """Something that the user can mend: a file, a label, a setting.

    code: of the catalogue (`convdsl explain`). message: lower-case without a full stop. help: an
    imperative that mends it.
    """

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(f"{message} ({help})" if help else message)
        self.diagnostic = Diagnostic(code, message, help=help)


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Around what writes to ``path``: a disk that is full or refuses is a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            "E422",
            f"cannot write to {path}: {error.strerror or error}",
            "make room or choose another --out; the previous checkpoint is kept",
        ) from error


def unreadable(what: object, error: OSError) -> TrainingError:
    """The finding for a file that cannot be opened, read or written."""
    return TrainingError("E300", f"cannot read {what}: {error.strerror or error}")
