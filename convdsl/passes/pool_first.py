"""max_pool(relu(x)) => relu(max_pool(x)): the same numbers of a quarter of the activations.

For plain PyTorch, where every layer is a pass over memory; the kernels have both in one epilogue.
Values and gradients keep every bit: a window's first winner is the same, or all of it is below zero
and no gradient flows. Only for poolings whose windows neither overlap nor leave the map. The
backward part must be empty.
"""

from convdsl.ir.graph import Graph, Node, Value


def pool_first(graph: Graph) -> Graph:
    """The graph with such activations behind the pooling that alone reads them."""
    users = graph.users()
    results = graph.results()
    waiting: dict[Value, Node] = {}  # activations that are to follow their pooling
    nodes: list[Node] = []
    for node in graph.nodes:
        activation = waiting.get(node.inputs[0])
        if activation is not None:
            pooled = Value(activation.output.name, node.output.type)
            outputs = (pooled, *node.outputs[1:])
            nodes += [
                Node(node.op, activation.inputs, node.parameters, outputs, node.origin),
                Node(
                    activation.op,
                    (pooled,),
                    activation.parameters,
                    (node.output,),
                    activation.origin,
                ),
            ]
            continue
        if node.op.may_follow_pool and node.output not in results:
            readers = users.get(node.output, [])
            if len(readers) == 1 and readers[0].op.pool_window is not None:
                waiting[node.output] = node
                continue
        nodes.append(node)
    return graph.with_nodes(nodes, graph.backward)
