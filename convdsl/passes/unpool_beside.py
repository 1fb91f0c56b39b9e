"""unpool(g, index) + window(d) => one kernel, for a map that is pooled and also cropped.

The gradient of a crop is zero outside a window of the map, so neither it nor the unpooled gradient
is written by itself. Assumes a differentiated graph, before groups are made.
"""

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._copy_window import CopyWindow
from convdsl.ops._unpool_beside import UnpoolBeside
from convdsl.ops.add import Add
from convdsl.ops.maxpool import MaxPoolGradient


def unpool_beside(graph: Graph) -> Graph:
    """The graph with such sums as one node, at the place of the sum."""
    made = {value: node for node in graph.backward for value in node.outputs}
    users, results = graph.users(), graph.results()

    def only_here(value: Value) -> bool:
        return len(users[value]) == 1 and value not in results

    sums: dict[int, Node] = {}
    gone: set[int] = set()
    for node in graph.backward:
        makers = [made.get(v) for v in node.inputs if only_here(v)]
        if not isinstance(node.op, Add) or len(makers) != len(node.inputs):
            continue
        match sorted((m for m in makers if m is not None), key=_is_copy):
            case [
                Node(op=MaxPoolGradient() as unpool) as first,
                Node(op=CopyWindow() as copy) as second,
            ]:
                inputs = (*first.inputs, *second.inputs)
                op = UnpoolBeside(unpool.of, unpool.x, copy)
                sums[id(node)] = Node(op, inputs, (), node.outputs, node.origin)
                gone |= {id(first), id(second)}
    backward = [sums.get(id(node), node) for node in graph.backward if id(node) not in gone]
    return graph.with_nodes(graph.nodes, backward)


def _is_copy(node: Node) -> bool:
    return isinstance(node.op, CopyWindow)
