"""Substitution, the one tool all rewriting passes share."""

from collections.abc import Mapping
from dataclasses import replace

from convdsl.ir.graph import Graph, Node, Value


def substitute(node: Node, mapping: Mapping[Value, Value]) -> Node:
    """The node reading ``mapping[v]`` wherever it read ``v``."""
    if not any(value in mapping for value in node.operands):
        return node
    return Node(
        node.op,
        tuple(mapping.get(v, v) for v in node.inputs),
        tuple(mapping.get(v, v) for v in node.parameters),
        node.outputs,
        node.origin,
    )


def substitute_results(graph: Graph, mapping: Mapping[Value, Value]) -> Graph:
    """The graph with outputs, gradients and updates renamed by ``mapping``."""
    return replace(
        graph,
        outputs=tuple(replace(o, value=mapping.get(o.value, o.value)) for o in graph.outputs),
        gradients=tuple((v, mapping.get(g, g)) for v, g in graph.gradients),
        updates=tuple((v, mapping.get(new, new)) for v, new in graph.updates),
    )
