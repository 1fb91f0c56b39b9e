"""Bytes of a training step beside PyTorch's: ``python -m benchmarks.traffic [NETWORK ...]``.

Nothing is run and nothing is timed. Ours are counted off the launches as emitted
(`convdsl.codegen.traffic`); what PyTorch eager and torch.compile would move is a model of each
(`benchmarks.frameworks` has its rules). All in bf16 with float32 masters, SGD with momentum. The
loss counts to the forward part. ``--json FILE`` writes the bytes, ``--update`` the table in
docs/performance.md.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.frameworks import Bytes, Step, eager, inductor
from convdsl.compiler import compile

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
#: networks and batches; U-Net's is what its maps of 572x572 leave room for
BATCHES = {
    "resnet50": 256,
    "vgg16": 256,
    "googlenet": 256,
    "inception_v3": 256,
    "xception": 256,
    "unet": 16,
    "alphago_policy": 256,
    "lenet5": 512,
    "alexnet": 256,
}
DTYPE, COMPUTE = "bf16", 2
_TABLE = re.compile(r"(?<=<!-- traffic -->\n).*?(?=<!-- /traffic -->)", re.DOTALL)
_PAGE = """\
# Performance

## Traffic

<!-- traffic -->
<!-- /traffic -->
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One network; ``read`` is that part of ours which is not written."""

    batch: int
    read: int
    ours: Bytes
    eager: Bytes
    inductor: Bytes


def measure(name: str) -> Row:
    """Count a network of `BATCHES`."""
    batch = BATCHES[name]
    network = compile(ROOT / "networks" / f"{name}.cnn")
    counted = network.traffic(batch, DTYPE)
    parts = counted.parts
    # a step at once is no pass by itself
    forward = sum(parts.get(part, 0) for part in ("forward", "loss", "step"))
    ours = Bytes(forward, parts.get("backward", 0), parts["optimiser"])
    step = Step.of(network, batch, COMPUTE)
    return Row(batch, counted.read, ours, eager(step), inductor(step))


def page(rows: Mapping[str, Row]) -> str:
    """The table of docs/performance.md, in GB = 10^9 bytes."""
    lines = [
        "| network | batch | forward | backward | optimiser | all | eager | compile |"
        " eager / ours | compile / ours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        bytes_ = (row.ours.forward, row.ours.backward, row.ours.optimizer, row.ours.total)
        cells = [gigabytes(b) for b in (*bytes_, row.eager.total, row.inductor.total)]
        if not row.ours.backward:
            cells[1] = "in forward"
        cells += [f"{other.total / row.ours.total:.2f}" for other in (row.eager, row.inductor)]
        lines.append(f"| {name} | {row.batch} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def document(rows: Mapping[str, Row]) -> str:
    """The bytes as JSON text."""
    networks = {
        name: {
            "batch": row.batch,
            "read": row.read,
            **{
                who: {**asdict(moved), "total": moved.total}
                for who, moved in (
                    ("ours", row.ours),
                    ("eager", row.eager),
                    ("inductor", row.inductor),
                )
            },
        }
        for name, row in rows.items()
    }
    return json.dumps({"dtype": DTYPE, "unit": "bytes", "networks": networks}, indent=2) + "\n"


def gigabytes(number: int) -> str:
    """Three digits: ``0.035``, ``4.88``, ``80.6``."""
    value = number / 1e9
    digits = 3 if value < 1 else 2 if value < 10 else 1
    return f"{value:.{digits}f}"


def show(rows: Mapping[str, Row]) -> str:
    """The rows as a text table."""
    heads = ("network", "batch", "forward", "backward", "optimiser", "all", "eager", "compile")
    lines = [f"{heads[0]:16}" + "".join(f"{head:>11}" for head in heads[1:])]
    for name, row in rows.items():
        ours = (row.ours.forward, row.ours.backward, row.ours.optimizer, row.ours.total)
        cells = [str(row.batch), *map(gigabytes, (*ours, row.eager.total, row.inductor.total))]
        lines.append(f"{name:16}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join([*lines, "GB = 10^9 bytes; eager and compile are models"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for every network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(BATCHES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the bytes")
    parser.add_argument("--update", action="store_true", help="rewrite docs/performance.md")
    given = parser.parse_args(arguments)
    if unknown := set(given.networks) - BATCHES.keys():
        parser.error(
            f"no batch is set for {', '.join(sorted(unknown))}; choose {', '.join(BATCHES)}"
        )
    if given.update and given.networks:
        parser.error("--update writes the whole table: name no network")
    rows = {name: measure(name) for name in given.networks or BATCHES}
    print(show(rows))
    if given.json is not None:
        given.json.write_text(document(rows), encoding="utf-8")
    if given.update:
        text = PAGE.read_text("utf-8") if PAGE.exists() else _PAGE
        PAGE.write_text(_TABLE.sub(lambda _: page(rows), text), encoding="utf-8")


if __name__ == "__main__":
    main()
