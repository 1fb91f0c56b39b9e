"""unused(x) => nothing: drop nodes none of whose outputs is read or leaves the graph."""

from convdsl.ir.graph import Graph, Node, Value


def drop_dead(graph: Graph) -> Graph:
    """The graph without dead nodes, forward and backward."""
    live: set[Value] = graph.results()

    def sweep(nodes: tuple[Node, ...]) -> list[Node]:
        kept = []
        for node in reversed(nodes):
            if any(value in live for value in node.outputs):
                kept.append(node)
                live.update(node.operands)
        return kept[::-1]

    backward = sweep(graph.backward)
    return graph.with_nodes(sweep(graph.nodes), backward)
