"""The command line: what `convdsl` and `python -m convdsl` run.

Commands return an `Outcome`; printing and exiting happen only in `main`. Exit codes: 0 all is
well, 1 findings, 2 wrong use or a file that cannot be read or written, 70 a fault of convdsl's
own, 130 interrupted, 141 the reader of the output went away. Nothing here imports torch.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from convdsl.cli.outcome import INTERNAL, INTERRUPTED, PIPE_CLOSED, USAGE, Outcome


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command with ``arguments`` (the process's own by default) and exit."""
    for stream in (sys.stdout, sys.stderr):
        # Whatever the locale: a character it lacks is escaped, never an error.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from convdsl.cli.commands import commands

        result = commands.main(arguments, prog_name="convdsl", standalone_mode=False)
        outcome = result if isinstance(result, Outcome) else Outcome(code=int(result or 0))
        return _deliver(outcome)
    except BrokenPipeError:
        _drop_output()
        return PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return USAGE
    except Exception as error:
        return _fault(error)


def _deliver(outcome: Outcome) -> int:
    """Results first, then findings, so that warnings stand below the table on a terminal."""
    try:
        sys.stdout.write(outcome.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        sys.stderr.write(f"Error: cannot write the output: {error.strerror}\n")
        return USAGE
    if outcome.stdout and outcome.stderr and sys.stdout.isatty() and sys.stderr.isatty():
        sys.stderr.write("\n")
    sys.stderr.write(outcome.stderr)
    return outcome.code


def _drop_output() -> None:
    """Point stdout at nothing, or the interpreter complains once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: Exception) -> int:
    if os.environ.get("CONVDSL_DEBUG"):
        raise error
    sys.stderr.write(
        f"internal error: {type(error).__name__}: {error}\n"
        "This is a fault of convdsl, not of your program. Please report it with the program and "
        "what CONVDSL_DEBUG=1 prints.\n"
    )
    return INTERNAL
