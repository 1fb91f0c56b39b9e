"""outputs x, aux (only=training) => output x: what inference gives, by itself.

Takes outputs away and leaves every node: `drop_dead` sweeps those that only they needed. The
backward part must be empty.
"""

from dataclasses import replace

from convdsl.ir.graph import Graph, Node
from convdsl.passes.drop_dead import drop_dead


def drop_training_outputs(graph: Graph) -> Graph:
    """The graph without outputs that only training has; nothing is updated any more."""
    kept = tuple(output for output in graph.outputs if not output.training_only)
    return replace(graph, outputs=kept, updates=())


def nodes_at_inference(graph: Graph) -> tuple[Node, ...]:
    """Those of the graph's nodes that inference needs; all where it has all outputs."""
    if not any(output.training_only for output in graph.outputs):
        return graph.nodes
    return drop_dead(drop_training_outputs(graph)).nodes
