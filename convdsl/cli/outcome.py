"""What a command hands to `main`: texts for the two streams, and the exit code."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from convdsl._version import __version__
from convdsl.diagnostics import Diagnostic
from convdsl.report.findings import to_json, to_sarif
from convdsl.report.render import render_all
from convdsl.report.terminal import Style

FINDINGS = 1
USAGE = 2
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130
PIPE_CLOSED = 141

#: the finding that says a file could not be read: wrong use rather than a wrong program
_UNREADABLE = "E300"


@dataclass(frozen=True, slots=True)
class Outcome:
    stdout: str = ""
    stderr: str = ""
    code: int = 0


def code_for(diagnostics: Sequence[Diagnostic], strict: bool = False) -> int:
    """0 for none, or warnings only unless strict; 2 if a file was unreadable; else 1."""
    if any(d.code == _UNREADABLE for d in diagnostics):
        return USAGE
    return FINDINGS if any(d.is_error or strict for d in diagnostics) else 0


def show(diagnostics: Sequence[Diagnostic], format: str, style: Style) -> str:
    """Diagnostics as text, ``json`` or ``sarif``."""
    if format == "json":
        return to_json(diagnostics)
    if format == "sarif":
        return to_sarif(diagnostics, __version__)
    return render_all(diagnostics, style)


def stderr_style() -> Style:
    return Style.of(sys.stderr)


def stdout_style() -> Style:
    return Style.of(sys.stdout)
