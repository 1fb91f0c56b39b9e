"""Every file of `networks/` against the figures of `networks.json`.

A row there is a file's name, perhaps with lets as on the command line: ``alphago_policy -D k=256``.
parameters, macs, field (receptive field of the last map, largest axis), output and warnings are
what must come out, and parameters_at_inference where some outputs are for training only, which the
macs leave out; gmacs is the figure as it is printed elsewhere, which the MACs must round to;
source says of every figure where it comes from. toy is for test_train_step.py: a small input,
perhaps a batch of 1, other random numbers, no repeats or no further outputs, and whether the
network takes long all the same.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convdsl.ir.graph import Graph
from convdsl.ir.types import TensorType
from convdsl.lower import Lowered, Options, lower
from convdsl.report.costs import measure
from convdsl.syntax.parser import parse, parse_shape
from convdsl.syntax.reader import read_source

NETWORKS = Path(__file__).parent.parent / "networks"
FIGURES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("networks.json").read_text()
)


def load(name: str, **lets: int) -> Lowered:
    return lower(parse(read_source(NETWORKS / f"{name}.cnn")), Options(lets=lets, root=NETWORKS))


def load_row(row: str) -> Lowered:
    """The network of a row's name, with its lets."""
    name, *lets = row.split(" -D ")
    return load(name, **{key: int(value) for key, value in (let.split("=") for let in lets)})


def parameters(graph: Graph) -> int:
    return sum(parameter.value.type.elements for parameter in graph.learned)


def macs(graph: Graph) -> int:
    """Of one sample at inference, which leaves outputs of training only out."""
    return measure(graph).macs_at_inference


def receptive_field(graph: Graph) -> int:
    """Extent of the last map's receptive field, the largest of its branches, in input pixels."""
    return max(max(row.field.size) for row in measure(graph).rows if row.field.size is not None)


def sees_all(graph: Graph) -> bool:
    """A map in the network sees all of the input, because a gate before it does."""
    return any(row.field.size is None and row.output.is_map for row in measure(graph).rows)


def test_every_network_has_its_figures() -> None:
    named = {row.split(" -D ")[0] for row in FIGURES}
    assert sorted(path.stem for path in NETWORKS.glob("*.cnn")) == sorted(named)


@pytest.mark.parametrize("row", FIGURES)
def test_figures(row: str) -> None:
    lowered, figures = load_row(row), dict(FIGURES[row])
    graph = lowered.graph
    source, printed = figures.pop("source"), figures.pop("gmacs", None)
    figures.pop("toy", None)
    at_inference = figures.pop("parameters_at_inference", figures["parameters"])
    assert measure(graph).parameters_at_inference == at_inference
    assert {
        "parameters": parameters(graph),
        "macs": macs(graph),
        "field": receptive_field(graph),
        "output": ", ".join(graph.notation.show(o.value.type) for o in graph.outputs),
        "warnings": [warning.code for warning in lowered.warnings],
    } == figures
    if printed is not None:
        assert f"{macs(graph) / 1e9:.{len(printed.partition('.')[2])}f}" == printed
    assert set(source) == {"parameters", "macs", "field", "output"} and all(source.values())


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.cnn")), ids=lambda path: path.stem)
def test_every_network_can_be_shown(path: Path) -> None:
    """A comment comes first, no line is longer than 100 columns, and the counts it tells hold."""
    text = path.read_text("utf-8")
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 100
    graph = load(path.stem).graph
    comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    told = re.findall(r"([\d,]+) parameters", comment)
    assert f"{parameters(graph):,}" in told
    assert f"{measure(graph).parameters_at_inference:,}" in comment
    for figure, unit in re.findall(r"([\d.,]+) (GMACs|MACs)", comment):
        digits = len(figure.partition(".")[2])
        exact = f"{macs(graph) / 1e9:.{digits}f}" if unit == "GMACs" else f"{macs(graph):,}"
        assert figure == exact


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.cnn")), ids=lambda path: path.stem)
def test_notes_allow_another_input(path: Path) -> None:
    """Of a network with one input, sizes 32 larger: the channels noted hold all the same."""
    program, own = parse(read_source(path)), load(path.stem).graph
    if len(own.inputs) > 1:
        pytest.skip("--input is for one input")
    channels, *sizes = own.inputs[0].type.shape
    larger = parse_shape(f"{channels}@{'x'.join(str(size + 32) for size in sizes)}")
    graph = lower(program, Options(inputs=larger, root=NETWORKS)).graph
    assert len(graph.nodes) == len(own.nodes)


def test_the_list_of_networks(golden: Callable[[Path, str], None]) -> None:
    """docs/networks.md has a line for every file."""
    lines = [
        "# The networks of `networks/`",
        "",
        "Parameters count the auxiliary classifiers, which only training has; GMACs do not. The",
        "receptive field is that of the last map, in pixels of the input along its larger axis; a",
        "gate that averages the whole map lets the next one see all of it.",
        "",
        "| file | input | output | parameters | GMACs | receptive field |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name in sorted(path.stem for path in NETWORKS.glob("*.cnn")):
        figures, graph = FIGURES[name], load(name).graph
        inputs = ", ".join(graph.notation.show(value.type) for value in graph.inputs)
        cells = (
            f"[{name}](../networks/{name}.cnn)",
            inputs,
            figures["output"],
            f"{figures['parameters']:,}",
            f"{figures['macs'] / 1e9:.3f}"
            if figures["macs"] >= 1e7
            else f"{figures['macs']:,} MACs",
            "all" if sees_all(graph) else f"{figures['field']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    golden(NETWORKS.parent / "docs" / "networks.md", "\n".join(lines) + "\n")


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (3, 2, 1), (1, 4, 3)])
def test_the_slide_in_other_sizes(n: int, m: int, k: int) -> None:
    graph = load("slide", N=n, M=m, K=k).graph
    kinds = [node.origin.path.rpartition(".")[2] for node in graph.nodes]
    assert kinds.count("conv") == n * m
    assert kinds.count("pool") == m
    assert kinds.count("fc") - 1 == k  # the flattening shows as the first FC
    assert graph.outputs[0].value.type == TensorType((10,))
