"""`convdsl predict`: what a trained network sees in pictures."""

from collections.abc import Sequence
from pathlib import Path

import click

from convdsl.cli.outcome import Outcome, show, stderr_style
from convdsl.cli.training import as_json, in_words, table
from convdsl.diagnostics import Diagnostic


@click.command(short_help="Classify pictures with a trained network.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, metavar="K")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text")
@in_words
def predict(run: Path, images: Sequence[Path], top: int, format_: str) -> Outcome:
    """The most probable classes of each of IMAGES, by the network or ensemble in RUN.

    Pictures are turned upright, scaled and cut to the network's input. Exit code 1 if any cannot
    be decoded; the others are answered all the same.
    """
    from convdsl.train.answer import answers
    from convdsl.train.trained import load_trained

    found, bad = answers(load_trained(run), images, top)
    problems = [Diagnostic("E411", f"{path} cannot be decoded: {why}") for path, why in bad]
    errors = show(problems, "text", stderr_style()) if problems else ""
    code = 1 if problems else 0
    if format_ == "json":
        made = [
            {"image": str(path), "classes": [{"name": n, "probability": p} for n, p in best]}
            for path, best in found
        ]
        return Outcome(as_json({"predictions": made}), errors, code)
    facts = [(str(path), "  ".join(f"{name} {p:.4f}" for name, p in best)) for path, best in found]
    return Outcome(table(facts), errors, code)
