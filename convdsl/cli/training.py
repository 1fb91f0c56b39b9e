"""What the commands for trained networks share: errors in the user's words, texts of results."""

import json
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TextIO

from convdsl.cli.outcome import INTERRUPTED, PIPE_CLOSED, Outcome, code_for, show, stderr_style
from convdsl.diagnostics import CompileError

P = ParamSpec("P")


def in_words(command: Callable[P, Outcome]) -> Callable[P, Outcome]:
    """Decorate a command: what the user can mend becomes a finding, an interrupt its exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Outcome:
        try:
            from convdsl.train.keeper import InterruptedRun
            from convdsl.train.problem import TrainingError
        except ModuleNotFoundError as error:
            message = f"training needs the package {error.name}: pip install 'convdsl[train]'\n"
            return Outcome(stderr=message, code=2)
        try:
            return command(*args, **kwargs)
        except CompileError as error:
            found = list(error.diagnostics)
        except TrainingError as error:
            found = [error.diagnostic]
        except BrokenPipeError:  # which click would exit with 1 for
            return Outcome(code=PIPE_CLOSED)
        except InterruptedRun as stop:
            return Outcome(stderr=f"{stop}\n", code=INTERRUPTED)
        return Outcome(stderr=show(found, "text", stderr_style()), code=code_for(found))

    return run


def streams() -> list[TextIO]:
    """Where to tell how a run goes: a bar on the terminal, and lines where output is kept."""
    shown = [sys.stderr] if sys.stderr.isatty() else []
    return shown if shown and sys.stdout.isatty() else [*shown, sys.stdout]


def table(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values, one a line."""
    from convdsl.cli.outcome import stdout_style

    style = stdout_style()
    width = max((len(name) for name, _ in facts), default=0)
    return "".join(f"{style.clean(name):{width}}  {style.clean(value)}\n" for name, value in facts)


def as_json(document: dict[str, Any]) -> str:
    """A document of a command, with the version of its form."""
    return json.dumps({"schema": 1, **document}, indent=1) + "\n"
