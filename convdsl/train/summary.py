"""The end of a run: a few lines for people, and the report's files in its folder."""

import json
from pathlib import Path
from typing import Any

from convdsl.report.terminal import counted
from convdsl.train import report
from convdsl.train.data.parts import Data
from convdsl.train.evaluate import Evaluation, evaluate
from convdsl.train.history import History
from convdsl.train.trained import Trained, load_trained

Facts = list[tuple[str, str]]


def conclude(history: History, data: Data, seconds: float) -> Facts:
    """Evaluate the best weights, write the report, and say what there is.

    history: of a run with a folder. Raises TrainingError if its checkpoint cannot be read.
    """
    assert history.folder is not None
    trained = load_trained(history.folder)
    found = evaluate(trained, data.test)
    facts = facts_of(history, data, seconds)
    pictures = {"Learning curves": report.curves(history.records, history.best)}
    report.write(history.folder, "curves.png", pictures["Learning curves"])
    _write(history.folder, trained, found, facts, pictures, history)
    return [*facts, *_places(history.folder)]


def conclude_ensemble(folder: Path, histories: list[History], data: Data, seconds: float) -> Facts:
    """The same for the members of an ensemble, `histories`, whose folder is ``folder``."""
    trained = load_trained(folder)
    found = evaluate(trained, data.test)
    facts = [("data", _data(data)), ("trained", f"{len(histories)} members in {seconds:.1f} s")]
    for number, accuracy in enumerate(found.members, 1):
        facts.append((f"member {number}", f"held-out accuracy {accuracy:.4f}"))
    if found.accuracy is not None:
        mean = sum(found.members) / len(found.members)
        facts.append(("mean of members", f"held-out accuracy {mean:.4f}"))
        facts.append(("ensemble", f"held-out accuracy {found.accuracy:.4f}"))
    pictures = {
        f"Member {number}": report.curves(history.records, history.best)
        for number, history in enumerate(histories, 1)
    }
    _write(folder, trained, found, facts, pictures, None)
    return [*facts, ("report", str(folder / "report.html"))]


def facts_of(history: History, data: Data, seconds: float) -> Facts:
    """What a run came to, as (name, value)."""
    facts = [("data", _data(data))]
    facts += [("note", note) for note in history.notes]
    epochs = counted(len(history.records) - history.earlier, "epoch")
    earlier = f", {history.earlier} before" if history.earlier else ""
    stopped = f", stopped early: {history.stopped}" if history.stopped else ""
    facts.append(("trained", f"{epochs} in {seconds:.1f} s{earlier}{stopped}"))
    if not history.records:
        return facts
    last = history.last
    if "val_accuracy" in last:
        facts.append(("held-out accuracy", f"{history.accuracy:.4f} after the last epoch"))
        if history.best is not None:
            best = history.records[history.best]
            facts.append(
                (
                    "best epoch",
                    f"{best['epoch']} with {best['val_accuracy']:.4f}, chosen on the same samples",
                )
            )
    elif "val_loss" in last:
        facts.append(("held-out loss", f"{last['val_loss']:.5g} after the last epoch"))
        if history.best is not None:
            best = history.records[history.best]
            facts.append(("best epoch", f"{best['epoch']} with {best['val_loss']:.5g}"))
    return facts


def _data(data: Data) -> str:
    return f"{data.name}: {len(data.train):,} to train on, {len(data.test):,} held out"


def _places(folder: Path) -> Facts:
    return [
        ("checkpoints", f"{folder / 'best'}, {folder / 'last'}"),
        ("report", str(folder / "report.html")),
    ]


def _write(
    folder: Path,
    trained: Trained,
    found: Evaluation,
    facts: Facts,
    pictures: dict[str, bytes],
    history: History | None,
) -> None:
    if found.confusion is not None:
        names = trained.classes or tuple(str(i) for i in range(len(found.confusion)))
        matrix = report.confusion_matrix(found.confusion, names)
        report.write(folder, "confusion.png", matrix)
        pictures["Confusion matrix"] = matrix
    name = trained.members[0].compiled.name
    title = f"{name} on {trained.about['data']['name']}"
    text = trained.about["program"]["text"]
    report.write(folder, "report.html", report.page(title, facts, pictures, text))
    document: dict[str, Any] = {"schema": 1, "evaluation": found.to_json()}
    if history is not None and history.best is not None:
        document |= {"best": history.records[history.best], "last": history.last}
    report.write(folder, "summary.json", json.dumps(document, indent=1) + "\n")
