"""`convdsl check`: the findings of many files and nothing else."""

from collections.abc import Sequence
from functools import partial

import click

from convdsl.cli.outcome import Outcome, code_for, show, stdout_style
from convdsl.cli.program import compile_program, findings, program_options
from convdsl.diagnostics import Diagnostic
from convdsl.report.terminal import counted


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@program_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="Form of the findings; sarif is version 2.1.0.",
)
def check(
    files: Sequence[str],
    shape: str | None,
    lets: Sequence[str],
    defaults: Sequence[str],
    strict: bool,
    format_: str,
) -> Outcome:
    """Report what is wrong with .cnn FILES (- for standard input).

    The findings are the result, so they go to standard output. Exit code 0: no errors, 1: errors
    (with --strict also warnings), 2: wrong use or an unreadable file.
    """
    found: list[Diagnostic] = []
    for file in files:
        _, more = findings(partial(compile_program, file, None, shape, lets, defaults, strict))
        found += more
    text = show(found, format_, stdout_style())
    if not found and format_ == "text":
        text = f"{counted(len(files), 'file')} checked, nothing found\n"
    return Outcome(text, code=code_for(found, strict))
