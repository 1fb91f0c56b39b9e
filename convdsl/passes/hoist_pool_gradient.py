"""f'(y) * unpool(g, index) => unpool(f'(pool(y)) * g, index), for y = f(z), p = pool(y).

At a window's winner y equals the pooled value, and everywhere else the unpooled gradient is zero,
so the derivative may be taken on the small map. The large map y is then no longer needed by the
backward part and `fuse_epilogues` can pool in the producer's kernel without ever storing it.

Assumes a differentiated graph. Applies to activations whose derivative is written in the output.
"""

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._pointwise import PointwiseGradient
from convdsl.ops.maxpool import MaxPool, MaxPoolGradient


def hoist_pool_gradient(graph: Graph) -> Graph:
    """The graph with activation gradients moved in front of max-pool gradients."""
    pools = {node.outputs[1]: node for node in graph.nodes if isinstance(node.op, MaxPool)}
    made = {value: node for node in graph.backward for value in node.outputs}
    users = graph.users()
    results = graph.results()
    dropped: set[int] = set()
    replaced: dict[int, tuple[Node, ...]] = {}
    for node in graph.backward:
        if not (isinstance(node.op, PointwiseGradient) and node.op.needs_only_output):
            continue
        unpool = made.get(node.inputs[0])
        if unpool is None or not isinstance(unpool.op, MaxPoolGradient):
            continue
        dy, index = unpool.inputs
        pool = pools[index]
        unpooled = unpool.output
        if pool.inputs[0] != node.inputs[1]:
            continue
        if len(users[unpooled]) > 1 or unpooled in results:
            continue
        small = Value(f"{unpooled.name}_pooled", dy.type)
        first = Node(node.op, (dy, pool.output), (), (small,), node.origin)
        second = Node(unpool.op, (small, index), (), node.outputs, unpool.origin)
        dropped.add(id(unpool))
        replaced[id(node)] = (first, second)
    backward: list[Node] = []
    for node in graph.backward:
        if id(node) not in dropped:
            backward += replaced.get(id(node), (node,))
    return graph.with_nodes(graph.nodes, backward)
