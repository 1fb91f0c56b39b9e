"""`convdsl compile`: the table, one layer's formulas, memory traffic, JSON, a stage's text."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convdsl.cli.outcome import Outcome, code_for, show, stderr_style, stdout_style
from convdsl.cli.program import STDIN, compile_program, findings, program_options
from convdsl.cli.write import write_atomically
from convdsl.report.terminal import Style

if TYPE_CHECKING:
    from convdsl.compiler import Network
    from convdsl.report.costs import Costs

_STAGES = ("ast", "ir", "fused", "triton", "torch")
_DTYPES = ("fp32", "bf16", "fp16")


@click.command("compile", short_help="Show the layers, shapes and costs of a .cnn file.")
@click.argument("file", required=False, type=click.Path())
@click.option("-e", "text", metavar="TEXT", help="Compile this text instead of a file.")
@program_options
@click.option("--flat", is_flag=True, help="Show every repetition as rows of its own.")
@click.option(
    "--batch",
    type=click.IntRange(1, 2**31),
    metavar="N",
    help="Plan training memory for a batch.",
)
@click.option(
    "--dtype",
    type=click.Choice(_DTYPES),
    default="fp32",
    show_default=True,
    help="Number type that activations are counted in.",
)
@click.option(
    "--traffic",
    is_flag=True,
    help="Show the bytes each kernel of a training step reads and writes, for --batch N.",
)
@click.option("--explain", metavar="ROW|NAME", help="Show formulas with numbers for one layer.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the report and of the findings.",
)
@click.option("--emit", type=click.Choice(_STAGES), help="Print the text of this stage instead.")
@click.option("-o", "output", type=click.Path(), metavar="FILE", help="Write the result to FILE.")
def compile_command(
    file: str | None,
    text: str | None,
    shape: str | None,
    lets: Sequence[str],
    defaults: Sequence[str],
    strict: bool,
    flat: bool,
    batch: int | None,
    dtype: str,
    traffic: bool,
    explain: str | None,
    format_: str,
    emit: str | None,
    output: str | None,
) -> Outcome:
    """Compile a .cnn FILE (- for standard input) and show its layers, shapes and costs.

    Results go to standard output, findings to standard error. Exit code 0: no errors, 1: errors
    (with --strict also warnings), 2: wrong use or an unreadable file.
    """
    if (file is None) == (text is None):
        raise click.UsageError("Give one program: a FILE, - for standard input, or -e TEXT.")
    if sum((emit is not None, explain is not None, format_ == "json")) > 1:
        raise click.UsageError("--emit, --explain and --format json exclude each other.")
    if traffic and (emit is not None or explain is not None):
        raise click.UsageError("--traffic goes with neither --emit nor --explain.")
    if traffic and batch is None:
        raise click.UsageError("--traffic needs the size of a batch: --batch N.")
    network, found = findings(lambda: compile_program(file, text, shape, lets, defaults, strict))
    code = code_for(found, strict)
    errors = show(found, format_, stderr_style())
    if network is None:
        return Outcome(stderr=errors, code=code)
    to_file = output not in (None, STDIN)
    style = Style() if to_file else stdout_style()
    if emit is not None:
        result = network.emit(emit)
    else:
        result = _report(network, style, flat, batch, dtype, traffic, explain, format_)
        if format_ == "json":
            errors = ""  # they are in the document
    if to_file and output is not None:
        sources = [] if file in (None, STDIN) or file is None else [Path(file)]
        write_atomically(Path(output), result, [*sources, *network.lowered.uses.files])
        result = ""
    return Outcome(result, errors, code)


def _report(
    network: "Network",
    style: Style,
    flat: bool,
    batch: int | None,
    dtype: str,
    traffic: bool,
    explain: str | None,
    format_: str,
) -> str:
    from convdsl.report.table import table
    from convdsl.report.traffic import traffic_table

    if explain is not None:
        return _explanation(network.costs, explain, style)
    if format_ == "json":
        return network.to_json(batch, dtype, traffic)
    if traffic and batch is not None:
        moved = network.traffic(batch, dtype)
        return traffic_table(network.costs, moved, style, network.source.name)
    plan = None if batch is None else network.plan(batch, dtype)
    file = network.source.name
    return table(network.costs, style, file=file, dtype=dtype, flat=flat, plan=plan)


def _explanation(costs: "Costs", wanted: str, style: Style) -> str:
    from convdsl.report.explain import choices, explain, select

    rows = select(costs, wanted)
    if not rows:
        near = get_close_matches(wanted, choices(costs), 3)
        advice = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.BadParameter(
            f"no layer {wanted!r}; rows go from 1 to {len(costs.rows)}.{advice}",
            param_hint="'--explain'",
        )
    text = "\n".join(explain(row, costs.graph.notation) for row in rows)
    return "".join(style.clean(line) + "\n" for line in text.splitlines())
