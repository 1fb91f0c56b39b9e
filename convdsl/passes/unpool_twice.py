"""z = unpool(g); sums(z), normalize_gradient(z, sums) => the same with an unpooling for each.

The gradient of a batch normalisation needs sums over all of z before any of it. Between the two
kernels z would be written and read; to gather it again from the pooled map and the winners' places
moves less. Assumes split layers and a differentiated graph, before groups are made, in which each
half becomes one kernel. Only where the pooled map is much smaller and nobody else reads z.
"""

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group
from convdsl.ops._batch_norm import GradientSums, NormalizeGradient
from convdsl.ops.maxpool import MaxPoolGradient
from convdsl.passes.rewrite import substitute

#: least numbers of z for one of the pooled map
LEAST = 2


def unpool_twice(graph: Graph) -> Graph:
    """The graph with such unpoolings done twice."""
    users, results = graph.users(), graph.results()
    build = Builder({v.name for node in graph.all_nodes for v in (*node.operands, *node.outputs)})
    summed: dict[Value, Value] = {}
    for node in graph.backward:
        if isinstance(node.op, GradientSums):
            node = substitute(node, summed)
        build.nodes.append(node)
        z = node.output
        if z not in results and _pays(node, users.get(z, [])):
            build.origin = node.origin
            (summed[z],) = build.add(node.op, *node.inputs, names=(f"{z.name}_summed",))
    return graph.with_nodes(graph.nodes, build.nodes)


def _pays(node: Node, readers: list[Node]) -> bool:
    """The node unpools for those two, and both its kernels move less than one and what it makes."""
    if not isinstance(node.op, MaxPoolGradient):
        return False
    z, small = node.output, node.inputs[0]
    sums = [r for r in readers if isinstance(r.op, GradientSums) and r.inputs.index(z) == 0]
    others = [r for r in readers if isinstance(r.op, NormalizeGradient) and r.inputs.index(z) == 0]
    if (len(sums), len(others), len(readers)) != (1, 1, 2):
        return False
    return LEAST * small.type.elements <= z.type.elements and bool(Group((node,), (z,)).band)
