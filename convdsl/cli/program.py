"""Which program is meant: its file, and the options that `compile` and `check` share."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.source import Source

if TYPE_CHECKING:
    from convdsl.compiler import Network

STDIN = "-"
_F = TypeVar("_F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--input", "shape", metavar="SHAPE", help="Replace the input's shape: 32x32x3 or 3@32x32."
    ),
    click.option(
        "-D",
        "lets",
        metavar="NAME=VALUE",
        multiple=True,
        help="Set a `let` or a free name of the program: -D N=2 -D M=3.",
    ),
    click.option(
        "--default",
        "defaults",
        metavar="LAYER(ARGS)",
        multiple=True,
        help="Add a `default` line: --default 'CONV(K=64)'.",
    ),
    click.option(
        "--strict", is_flag=True, help="Inexact sizes are errors; warnings give exit code 1."
    ),
)


def program_options(command: _F) -> _F:
    """Decorate a command with --input, -D, --default and --strict."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def compile_program(
    file: str | None,
    text: str | None,
    shape: str | None,
    lets: Sequence[str],
    defaults: Sequence[str],
    strict: bool,
) -> "Network":
    """Compile a file, ``-`` for stdin, or ``text``. Raises CompileError with every finding."""
    # Imported late: --help and --version need none of it.
    from convdsl.compiler import compile_source, make_options

    values = _values(lets)
    root: Path | None = None
    if text is not None:
        source = Source("<command line>", text)
    else:
        assert file is not None
        source = read(file)
        root = None if file == STDIN else Path(file).parent
    return compile_source(source, make_options(values, shape, defaults, strict, root))


def findings(compile_one: Callable[[], "Network"]) -> tuple["Network | None", list[Diagnostic]]:
    """The network, None if it has errors, and every finding of its compilation."""
    try:
        network = compile_one()
    except CompileError as error:
        return None, list(error.diagnostics)
    return network, list(network.warnings)


def _values(lets: Sequence[str]) -> dict[str, Any]:
    """Values of ``NAME=VALUE`` texts. Raises click.BadParameter, or CompileError for a value."""
    from convdsl.lower import Limits
    from convdsl.lower.evaluate import constant
    from convdsl.syntax.parser import parse_value

    values: dict[str, Any] = {}
    for text in lets:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint="'-D'")
        if name in values:
            raise click.BadParameter(f"{name} is set twice.", param_hint="'-D'")
        values[name] = constant(parse_value(value), Limits())
    return values


def read(file: str) -> Source:
    """The text of a file, or of standard input for ``-``. Raises CompileError."""
    from convdsl.syntax.reader import MAX_BYTES, read_source, source_from_bytes

    if file != STDIN:
        return read_source(file)
    return source_from_bytes("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1))
