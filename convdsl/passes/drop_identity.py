"""identity(x) => x: ID always, dropout with p = 0 always, dropout when not training.

Runs before differentiation; the backward part must be empty.
"""

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.op import Layer
from convdsl.passes.rewrite import substitute, substitute_results


def drop_identity(graph: Graph, training: bool = True) -> Graph:
    """The graph without nodes whose layer says it is an identity in this mode."""
    mapping: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = substitute(node, mapping)
        if isinstance(node.op, Layer) and node.op.is_identity(training):
            mapping[node.output] = node.inputs[0]
        else:
            nodes.append(node)
    return substitute_results(graph, mapping).with_nodes(nodes, graph.backward)
