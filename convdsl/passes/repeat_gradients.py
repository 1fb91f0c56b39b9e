"""z = f(g); sums(z), normalize_gradient(z, sums) => the same with an f for each.

The gradient of a batch normalisation needs sums over all of z before any of it, so z would be
written by one kernel and read by the other. Where f is an unpooling of a much smaller map, or the
gradient of an activation at a slice that lies in memory anyway, to work it out again moves less.
Assumes split layers and a differentiated graph, before groups are made, in which each half becomes
one kernel. Only where nobody else reads z.
"""

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group
from convdsl.ir.types import DType
from convdsl.ops._batch_norm import GradientSums, NormalizeGradient
from convdsl.ops._pointwise import PointwiseGradient, Recomputed
from convdsl.ops.concat import Slice
from convdsl.ops.maxpool import MaxPoolGradient
from convdsl.passes.rewrite import substitute

#: least numbers of z for one of the maps that it is gathered from
LEAST = 2


def repeat_gradients(graph: Graph) -> Graph:
    """The graph with such gradients worked out twice."""
    users, results = graph.users(), graph.results()
    slices = {node.output for node in graph.backward if isinstance(node.op, Slice)}
    build = Builder({v.name for node in graph.all_nodes for v in (*node.operands, *node.outputs)})
    summed: dict[Value, Value] = {}
    for node in graph.backward:
        if isinstance(node.op, GradientSums):
            node = substitute(node, summed)
        build.nodes.append(node)
        z = node.output
        sums = _sums(z, users.get(z, []))
        if sums is not None and z not in results and _pays(node, sums, slices):
            build.origin = node.origin
            name, weights = f"{z.name}_summed", node.parameters
            (summed[z],) = build.add(node.op, *node.inputs, parameters=weights, names=(name,))
    return graph.with_nodes(graph.nodes, build.nodes)


def _sums(z: Value, readers: list[Node]) -> Node | None:
    """The sums of z where they and the normalisation's gradient are all that reads it."""
    sums = [r for r in readers if isinstance(r.op, GradientSums) and r.inputs.index(z) == 0]
    others = [r for r in readers if isinstance(r.op, NormalizeGradient) and r.inputs.index(z) == 0]
    return sums[0] if (len(sums), len(others), len(readers)) == (1, 1, 2) else None


def _pays(node: Node, sums: Node, slices: set[Value]) -> bool:
    """Two kernels that work out z move less than one, and another that reads what it made."""
    z, first = node.output, node.inputs[0]
    if isinstance(node.op, MaxPoolGradient):
        gathered = sum(v.type.elements for v in node.inputs if v.type.dtype is z.type.dtype)
        small = LEAST * gathered <= z.type.elements
        return small and bool(Group((node,), (z,)).band)
    if not isinstance(node.op, PointwiseGradient | Recomputed) or first not in slices:
        return False
    # beside the slice, tensors of z's size that the sums do not read themselves
    others = (v for v in node.inputs[1:] if v.type.shape == z.type.shape and v not in sums.inputs)
    by_rows = Group((node,), (z,), by_rows=True)
    return all(v.type.dtype is DType.BIT for v in others) and bool(by_rows.band)
