"""max_pool(lrn(x)) => one kernel: the normalised map is neither stored nor read.

The gradient of the pooling asks for the winners' places and that of the normalisation for x, so
nothing else needs the map. A pixel is normalised again for every window that sees it; a pooling
whose windows overlap more than those of 3x3 at stride 2 stays a kernel of its own.

The other order, lrn(max_pool(x)), stays two kernels: the normalisation needs neighbouring channels
of the pooled map, each of which would be pooled again, to spare reading the small map once.
"""

from dataclasses import replace
from math import prod

from convdsl.ir.graph import Graph, Node
from convdsl.ops._normalized_pool import NormalizedPool
from convdsl.ops.lrn import LocalResponseNorm
from convdsl.ops.maxpool import MOST_WINDOWS, MaxPool


def normalize_in_pool(graph: Graph) -> Graph:
    """The graph with such pairs as one node."""
    users, results = graph.users(), graph.results()
    norms = {n.output: n for n in graph.nodes if isinstance(n.op, LocalResponseNorm)}
    pairs: dict[int, Node] = {}
    for node in graph.nodes:
        norm = norms.get(node.inputs[0])
        if norm is None or not isinstance(node.op, MaxPool):
            continue
        alone = len(users[norm.output]) == 1 and norm.output not in results
        window = node.op.window(norm.output.type)
        if alone and prod(window.kernel) <= MOST_WINDOWS * prod(window.stride):
            assert isinstance(norm.op, LocalResponseNorm)
            op = NormalizedPool(norm.op, node.op)
            origin = replace(norm.origin, text=f"{norm.origin.text} - {node.origin.text}")
            pairs[id(node)] = Node(op, norm.inputs, (), node.outputs, origin)
    gone = {id(norms[node.inputs[0]]) for node in graph.nodes if id(node) in pairs}
    nodes = [pairs.get(id(node), node) for node in graph.nodes if id(node) not in gone]
    return graph.with_nodes(nodes, graph.backward)
