"""convolution => the library's convolution, where that was faster on the device.

Reads `Graph.choices`; a network has no such entries unless somebody asked for them
(``kernels="auto"``). Before groups are made: what a library does takes no epilogue.
"""

from convdsl.ir.choices import key_of
from convdsl.ir.graph import Graph, Node
from convdsl.ops._library import in_library


def use_library(graph: Graph) -> Graph:
    """The graph with a library call for every convolution that the choices name."""
    if graph.choices is None or not graph.choices.library:
        return graph
    library = graph.choices.library

    def rewritten(node: Node) -> Node:
        called = in_library(node)
        return called if called is not None and key_of(node) in library else node

    return graph.with_nodes(map(rewritten, graph.nodes), map(rewritten, graph.backward))
