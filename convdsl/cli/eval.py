"""`convdsl eval`: how good a trained network is on samples it was not trained on."""

from pathlib import Path

import click

from convdsl.cli.outcome import Outcome
from convdsl.cli.training import as_json, in_words, table


@click.command("eval", short_help="Evaluate a trained network on held-out data.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", metavar="DATA", help="Another data set than it was trained on.")
@click.option("--format", "format_", type=click.Choice(["text", "json"]), default="text")
@in_words
def evaluate_command(run: Path, data: str | None, format_: str) -> Outcome:
    """Loss and accuracy on the held-out part of the data, and the accuracy of every class.

    RUN is the folder of a run, of which the best epoch counts, of an ensemble, whose members'
    probabilities are averaged, or a checkpoint.
    """
    from convdsl.train.data.read import read
    from convdsl.train.evaluate import evaluate
    from convdsl.train.trained import load_trained

    trained = load_trained(run)
    found = read(data or trained.about["data"]["name"], trained.request)
    result = evaluate(trained, found.test)
    if format_ == "json":
        return Outcome(as_json({"data": found.name, **result.to_json()}))
    facts = [("data", f"{found.name}: {result.samples:,} held out")]
    if len(result.members) > 1:
        facts += [(f"member {i}", f"{a:.4f}") for i, a in enumerate(result.members, 1)]
    else:
        facts.append(("loss", f"{result.loss:.5g}"))
    if result.accuracy is not None and result.confusion is not None:
        facts.append(("accuracy", f"{result.accuracy:.4f}"))
        names = trained.classes or tuple(str(i) for i in range(len(result.confusion)))
        for name, row, right in zip(
            names, result.confusion.tolist(), result.confusion.diagonal().tolist(), strict=False
        ):
            if total := sum(row):
                facts.append((f"  {name}", f"{right / total:.4f}  ({right} of {total})"))
    return Outcome(table(facts))
