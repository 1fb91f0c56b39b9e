"""batch_norm(x; batch statistics) => batch_norm(x; running statistics), for inference.

Every layer that has another op for inference (`Layer.at_inference`) becomes that op, and nothing is
updated any more. The backward part must be empty.
"""

from dataclasses import replace

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.op import Layer
from convdsl.passes.rewrite import substitute


def use_running_statistics(graph: Graph) -> Graph:
    """The graph as it runs when nothing is learned."""
    kept: dict[Value, Value] = {}  # the state a layer would have updated, as it stays
    nodes: list[Node] = []
    for node in graph.nodes:
        node = substitute(node, kept)
        kept.update(node.updated)
        other = node.op.at_inference() if isinstance(node.op, Layer) else None
        if other is not None:
            node = Node(other, node.inputs, node.parameters, node.outputs[:1], node.origin)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), updates=())
