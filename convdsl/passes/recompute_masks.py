"""f'(y) * g => f'(f(normalize(x))) * g where x is read anyway, for y = f(normalize(x)).

The gradient of an activation behind a batch normalisation needs the activation's output only to
know its derivative. The sums of the normalisation's gradient, which begin in the same kernel, read
x, so the output is worked out again and not read. Assumes split layers and a differentiated graph.
"""

from convdsl.ir.graph import Graph, Node
from convdsl.ir.reduction import RowReduction
from convdsl.ops._batch_norm import Normalize
from convdsl.ops._pointwise import Pointwise, PointwiseGradient, Recomputed


def recompute_masks(graph: Graph) -> Graph:
    """The graph with such gradients in terms of x."""
    made = {value: node for node in graph.nodes for value in node.outputs}
    users = graph.users()

    def rewritten(node: Node) -> Node:
        if not (isinstance(node.op, PointwiseGradient) and node.op.needs_only_output):
            return node
        activation = made.get(node.inputs[-1])
        if activation is None or not isinstance(activation.op, Pointwise):
            return node
        norm = made.get(activation.inputs[0])
        if norm is None or not isinstance(norm.op, Normalize):
            return node
        readers = (n for n in users.get(node.output, []) if isinstance(n.op, RowReduction))
        if not any(norm.inputs[0] in reader.inputs for reader in readers):
            return node
        op = Recomputed(node.op, (norm.op, activation.op))
        inputs = (*node.inputs[:-1], *norm.inputs)
        return Node(op, inputs, norm.parameters, node.outputs, node.origin)

    return graph.with_nodes(graph.nodes, [rewritten(node) for node in graph.backward])
