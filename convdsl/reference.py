"""Run a graph node by node in plain torch: the oracle of every kernel and every pass.

Works in whatever dtype its inputs have (float64 in tests), in logical (N, C, H, W) order, and on
graphs before or after any pass: a group is run member by member. Not meant to be fast.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group, members

Values = dict[Value, Tensor]


def run_forward(
    graph: Graph,
    inputs: Iterable[Tensor],
    parameters: Mapping[str, Tensor],
    *,
    training: bool = False,
) -> Values:
    """Every value of the forward part. ``parameters`` by state_dict key."""
    values: Values = dict(zip(graph.inputs, inputs, strict=True))
    values |= {p.value: parameters[p.path] for p in graph.parameters}
    run_nodes(graph.nodes, values, training)
    return values


def run_backward(
    graph: Graph, values: Values, cotangents: Iterable[Tensor], *, training: bool = False
) -> Values:
    """Gradients of inputs and parameters (by their value), from dLoss/dOutput."""
    table = dict(values) | dict(zip(graph.cotangents, cotangents, strict=True))
    run_nodes(graph.backward, table, training)
    return {value: table[gradient] for value, gradient in graph.gradients}


def run_nodes(nodes: Iterable[Node], values: Values, training: bool) -> None:
    """Add to ``values`` what the nodes make of them."""
    for node in nodes:
        if isinstance(node.op, Group):
            run_nodes(members(node), values, training)
            continue
        scope: dict[str, Any] = {"torch": torch, "F": F, "training": training, "seed": -1}
        names = [f"operand_{i}" for i in range(len(node.operands))]
        scope |= {n: values[v] for n, v in zip(names, node.operands, strict=True)}
        texts = node.op.reference(*names)
        for value, text in zip(node.outputs, texts, strict=True):
            # our own ops' text over our own names; nothing a user wrote gets here but numbers
            values[value] = eval(text, scope)
