"""y = batch_norm(x) => mean, scale = statistics(x); y = (x - mean) * scale + bias.

Every layer that is made of parts in training (`Layer.split`) becomes them, under the same names.
Assumes a differentiated graph: gradients are written for layers as a whole.
"""

from convdsl.ir.graph import Graph
from convdsl.ir.op import Layer


def split_layers(graph: Graph) -> Graph:
    """The graph with the parts in place of the layers."""
    parts = (n.op.split(n) if isinstance(n.op, Layer) else (n,) for n in graph.nodes)
    return graph.with_nodes((part for nodes in parts for part in nodes), graph.backward)
