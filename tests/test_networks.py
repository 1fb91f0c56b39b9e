"""Every file of `networks/` against the figures of `networks.json`.

LeNet-5, VGG-16 (its receptive field of 212 too) and Inception 3a are published counts; AlexNet's
shapes are those of the lecture's listing, asserted one by one below.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from convdsl.ir.graph import Graph
from convdsl.ir.op import Layer
from convdsl.ir.types import TensorType
from convdsl.lower import Lowered, Options, lower
from convdsl.report.costs import measure
from convdsl.syntax.parser import parse
from convdsl.syntax.reader import read_source

NETWORKS = Path(__file__).parent.parent / "networks"
FIGURES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("networks.json").read_text()
)


def load(name: str, **lets: int) -> Lowered:
    return lower(parse(read_source(NETWORKS / f"{name}.cnn")), Options(lets=lets, root=NETWORKS))


def parameters(graph: Graph) -> int:
    return sum(parameter.value.type.elements for parameter in graph.parameters)


def macs(graph: Graph) -> int:
    layers = [(n.op, n.inputs) for n in graph.nodes if isinstance(n.op, Layer)]
    return sum(op.macs(*(value.type for value in inputs)) for op, inputs in layers)


def receptive_field(graph: Graph) -> int:
    """Extent of the last map's receptive field, the largest of its branches, in input pixels."""
    return max(max(row.field.size) for row in measure(graph).rows if row.field.size is not None)


def test_every_network_has_its_figures() -> None:
    assert sorted(path.stem for path in NETWORKS.glob("*.cnn")) == sorted(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name: str) -> None:
    lowered = load(name)
    graph = lowered.graph
    assert {
        "parameters": parameters(graph),
        "macs": macs(graph),
        "field": receptive_field(graph),
        "output": graph.notation.show(graph.outputs[0].value.type),
        "warnings": [warning.code for warning in lowered.warnings],
    } == FIGURES[name]


def test_alexnet_has_every_shape_of_the_listing() -> None:
    graph = load("alexnet").graph
    shown: list[str] = []
    for node in graph.nodes:
        if node.parameters or node.origin.text.startswith("POOL"):
            shown.append(graph.notation.show(node.output.type))
    assert shown == [
        "55x55x96",
        "27x27x96",
        "27x27x256",
        "13x13x256",
        "13x13x384",
        "13x13x384",
        "13x13x256",
        "6x6x256",
        "4096",
        "4096",
        "1000",
    ]
    assert graph.parameters[0].value.type.elements == 34_848


@pytest.mark.parametrize(("n", "m", "k"), [(1, 1, 1), (3, 2, 1), (1, 4, 3)])
def test_the_slide_in_other_sizes(n: int, m: int, k: int) -> None:
    graph = load("slide", N=n, M=m, K=k).graph
    kinds = [node.origin.path.rpartition(".")[2] for node in graph.nodes]
    assert kinds.count("conv") == n * m
    assert kinds.count("pool") == m
    assert kinds.count("fc") - 1 == k  # the flattening shows as the first FC
    assert graph.outputs[0].value.type == TensorType((10,))
