"""`convdsl tune`: measure a network's kernels on this device and keep what was fastest."""

from collections.abc import Sequence
from functools import partial

import click

from convdsl.cli.outcome import USAGE, Outcome, code_for, show, stderr_style
from convdsl.cli.program import compile_program, findings, program_options


@click.command()
@click.argument("file", type=click.Path())
@click.option("--batch", type=click.IntRange(1), required=True, help="Samples of a training step.")
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32"]),
    default="bf16",
    show_default=True,
    help="What the network computes in.",
)
@click.option(
    "--kernels",
    type=click.Choice(["triton", "auto"]),
    default="triton",
    show_default=True,
    help="auto: the vendor's library may win convolutions.",
)
@program_options
def tune(
    file: str,
    batch: int,
    dtype: str,
    kernels: str,
    shape: str | None,
    lets: Sequence[str],
    defaults: Sequence[str],
    strict: bool,
) -> Outcome:
    """Find the fastest tiles and fusions for FILE on this device (- for standard input).

    Every later `convdsl.load` of any network with the same kernels uses what was found. Exit code
    0: done, 1: the program has errors, 2: wrong use, or no device to measure on.
    """
    network, found = findings(partial(compile_program, file, None, shape, lets, defaults, strict))
    notes = show(found, "text", stderr_style())
    if network is None:
        return Outcome(stderr=notes, code=code_for(found, strict))
    from convdsl.runtime.tuned import NAMES
    from convdsl.tuning.search import Found
    from convdsl.tuning.tune import tune as measure

    def tell(made: Found) -> None:
        click.echo(made.line, err=True)

    types = {name: kind for kind, name in NAMES.items()}
    try:
        tuned = measure(network, batch=batch, dtype=types[dtype], kernels=kernels, tell=tell)
    except ValueError as error:
        return Outcome(stderr=f"{notes}error: {error}\n", code=USAGE)
    return Outcome(tuned.summary(network), notes)
