"""`convdsl fmt`: programs in one style, and a lecture's listing as a program."""

import os
from collections.abc import Sequence
from difflib import unified_diff
from pathlib import Path

import click

from convdsl.cli.outcome import FINDINGS, USAGE, Outcome, code_for, show, stderr_style
from convdsl.cli.program import STDIN, read
from convdsl.cli.write import write_atomically
from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.report.terminal import counted
from convdsl.source import Source


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@click.option(
    "--to", type=click.Choice(["cnn"]), help="Write a lecture's listing as a .cnn program."
)
@click.option("-o", "output", type=click.Path(), metavar="FILE", help="Where --to writes.")
def fmt(
    files: Sequence[str], check: bool, diff: bool, to: str | None, output: str | None
) -> Outcome:
    """Rewrite .cnn FILES in the style of the language (- formats standard input to output).

    Comments stay, the network never changes, and a file with errors is left alone. Line ends stay
    what the first one is. Exit code 0: done, 1: errors or, with --check, files that would change,
    2: wrong use, or a file that cannot be read or written.
    """
    if to is not None:
        if check or diff or len(files) != 1:
            raise click.UsageError("--to takes one FILE and neither --check nor --diff.")
        return _convert(files[0], output)
    if output is not None:
        raise click.UsageError("-o goes with --to; files are rewritten in place.")
    if STDIN in files and len(files) > 1:
        raise click.UsageError("- for standard input stands alone.")
    found: list[Diagnostic] = []
    results = []
    for file in files:
        try:
            source = read(file)
            results.append((file, source, _formatted(file, source)))
        except CompileError as error:
            found += error.diagnostics
    if check or diff:
        return _compared(results, found, check, diff)
    return _written(results, found)


def _convert(file: str, output: str | None) -> Outcome:
    from convdsl.syntax.format import format_source
    from convdsl.syntax.listing import is_listing, program_text

    try:
        source = read(file)
        if is_listing(source):
            source = Source(source.name, program_text(source))
        text = format_source(source)
    except CompileError as error:
        found = error.diagnostics
        return Outcome(stderr=show(found, "text", stderr_style()), code=code_for(found))
    if output is None or output == STDIN:
        return Outcome(text)
    write_atomically(Path(output), text, [] if file == STDIN else [Path(file)])
    return Outcome()


def _formatted(file: str, source: Source) -> str:
    """The text as it should be, with the line ends of the first line."""
    from convdsl.syntax.format import format_source
    from convdsl.syntax.listing import is_listing

    if is_listing(source):
        message = f"{source.name} is a lecture's listing, which is left as printed; "
        raise click.UsageError(message + f"`convdsl fmt --to cnn {file}` writes it as a program.")
    text = format_source(source)
    dos = source.text.partition("\n")[0].endswith("\r")
    return text.replace("\n", "\r\n") if dos else text


def _compared(
    results: Sequence[tuple[str, Source, str]],
    found: Sequence[Diagnostic],
    check: bool,
    diff: bool,
) -> Outcome:
    changing = [(source, text) for _, source, text in results if text != source.text]
    shown = "".join(_difference(source, text) for source, text in changing) if diff else ""
    if check and not diff:
        shown = "".join(f"would change {source.name}\n" for source, _ in changing)
    code = max(code_for(found), FINDINGS if check and changing else 0)
    return Outcome(shown, show(found, "text", stderr_style()) if found else "", code)


def _difference(source: Source, text: str) -> str:
    before, after = (t.replace("\r\n", "\n").splitlines(True) for t in (source.text, text))
    lines = unified_diff(before, after, source.name, f"{source.name} (formatted)")
    ended = (
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
    return "".join(ended) or f"{source.name}: line ends differ\n"


def _written(results: Sequence[tuple[str, Source, str]], found: Sequence[Diagnostic]) -> Outcome:
    out, errors = "", show(found, "text", stderr_style()) if found else ""
    code = code_for(found)
    for file, source, text in results:
        if file == STDIN:
            out += text
            continue
        if text == source.text:
            continue
        try:
            if not os.access(file, os.W_OK):
                raise click.ClickException(f"cannot write {file}: permission denied")
            write_atomically(Path(file), text)
        except click.ClickException as error:
            errors += f"Error: {error.message}\n"
            code = USAGE
            continue
        out += f"formatted {source.name}\n"
    if not out and not errors:
        out = f"{counted(len(results), 'file')} checked, nothing to change\n"
    return Outcome(out, errors, code)
