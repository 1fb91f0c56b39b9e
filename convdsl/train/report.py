"""Learning curves and confusion matrix as PNG, and a page that holds everything in one file."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from convdsl.files import replace
from convdsl.train.history import Record
from convdsl.train.problem import writing

#: classes up to which the cells of the confusion matrix are numbered and named
NAMED = 20


def curves(records: Sequence[Record], best: int | None) -> bytes:
    """Losses over the epochs and, where there is one, held-out accuracy; a PNG."""
    accuracy = any("val_accuracy" in record for record in records)
    figure = Figure(figsize=(10 if accuracy else 5.5, 4), layout="constrained")
    axes = figure.subplots(1, 2 if accuracy else 1, squeeze=False)[0]
    epochs = [record["epoch"] for record in records]
    for name, label in (("train_loss", "training"), ("val_loss", "held out")):
        axes[0].plot(epochs, [r.get(name, float("nan")) for r in records], label=label)
    axes[0].set(xlabel="epoch", ylabel="loss", title="Loss")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    if accuracy:
        axes[1].plot(epochs, [r.get("val_accuracy", float("nan")) for r in records], color="C1")
        axes[1].set(xlabel="epoch", ylabel="accuracy", title="Held-out accuracy")
        if best is not None:
            record = records[best]
            axes[1].plot(record["epoch"], record["val_accuracy"], "o", color="C3")
            best_is = f"best {record['val_accuracy']:.4f} in epoch {record['epoch']}"
            axes[1].set_title(f"Held-out accuracy, {best_is}")
    for each in axes:
        each.grid(alpha=0.3)
        each.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def confusion_matrix(confusion: Tensor, classes: Sequence[str]) -> bytes:
    """Rows are the labels, columns the answers; shade by share of the row; a PNG."""
    count = len(confusion)
    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    side = min(12.0, 3 + 0.42 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row")
    axes.set(xlabel="answer", ylabel="label", title="Confusion matrix, held out")
    if count <= NAMED:
        names = [_shortened(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=45 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(count), names)
        for i in range(count):
            for j in range(count):
                if number := int(confusion[i, j]):
                    look = "white" if shares[i, j] > 0.5 else "black"
                    axes.text(j, i, str(number), ha="center", va="center", color=look)
    return _png(figure)


def page(
    title: str, facts: Sequence[tuple[str, str]], pictures: dict[str, bytes], text: str
) -> str:
    """HTML without scripts or links: facts as a table, the pictures within, the program."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>\n" for k, v in facts)
    shown = "".join(
        f'<h2>{escape(name)}</h2>\n<img alt="{escape(name)}" '
        f'src="data:image/png;base64,{base64.b64encode(data).decode()}">\n'
        for name, data in pictures.items()
    )
    program = f"<h2>Program</h2>\n<pre>{escape(text)}</pre>\n" if text else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n"
        "<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
        "th{text-align:left;padding-right:2em;font-weight:normal;color:#555}img{max-width:100%}"
        "pre{background:#f4f4f4;padding:1em;overflow:auto}</style>\n"
        f"<h1>{escape(title)}</h1>\n<table>\n{rows}</table>\n{shown}{program}</html>\n"
    )


def write(folder: Path, name: str, data: bytes | str) -> None:
    """One file of a report, whole or not at all."""
    with writing(folder):
        replace(folder / name, data.encode() if isinstance(data, str) else data)


def _shortened(name: str) -> str:
    # a dollar sign would begin a formula
    return (name if len(name) <= 12 else name[:11] + "…").replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    file: Any = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return bytes(file.getvalue())
