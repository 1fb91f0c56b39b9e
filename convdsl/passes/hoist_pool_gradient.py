"""f'(y) * unpool(g, index) => unpool(f'(pool(y)) * g, index), for y = f(z), p = pool(y).

At a window's winner y equals the pooled value, and everywhere else the unpooled gradient is zero,
so the derivative may be taken on the small map. The large map y is then no longer needed by the
backward part and `fuse_epilogues` can pool in the producer's kernel without ever storing it.

Where y is cropped too, as U-Net does it, the same holds of the crop's gradient, which is zero
outside the crop: f'(y) * (unpool(g) + window(d)) => unpool(f'(p) * g) + window(f'(crop(y)) * d).

Assumes a differentiated graph. Applies to activations whose derivative is written in the output.
"""

from dataclasses import replace

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._copy_window import CopyWindow
from convdsl.ops._pointwise import PointwiseGradient
from convdsl.ops.add import Add
from convdsl.ops.crop import Crop
from convdsl.ops.maxpool import MaxPool, MaxPoolGradient


def hoist_pool_gradient(graph: Graph) -> Graph:
    """The graph with activation gradients moved in front of the gradients of pools and crops."""
    small = _small_maps(graph)
    made = {value: node for node in graph.backward for value in node.outputs}
    users, results = graph.users(), graph.results()
    dropped: set[int] = set()
    replaced: dict[int, list[Node]] = {}
    for node in graph.backward:
        if not (isinstance(node.op, PointwiseGradient) and node.op.needs_only_output):
            continue
        dy, y = node.inputs
        total = made.get(dy)
        if total is None:
            continue
        sums = [total] if isinstance(total.op, Add) else []
        terms = [made.get(v) for v in total.inputs] if sums else [total]
        spread = [n for n in terms if n is not None and (y, _spreads(n)) in small]
        alone = all(len(users[n.output]) == 1 and n.output not in results for n in spread + sums)
        pools = any(isinstance(n.op, MaxPoolGradient) for n in spread)
        if len(spread) < len(terms) or not alone or not pools:
            continue
        moved = []
        for term in spread:
            given = term.inputs[0]
            name = "pooled" if isinstance(term.op, MaxPoolGradient) else "cropped"
            hoisted = Value(f"{term.output.name}_{name}", given.type)
            of = small[y, _spreads(term)]
            moved.append(Node(node.op, (given, of), (), (hoisted,), node.origin))
            outputs = term.outputs if sums else node.outputs
            moved.append(Node(term.op, (hoisted, *term.inputs[1:]), (), outputs, term.origin))
        moved += [replace(n, outputs=node.outputs) for n in sums]
        dropped.update(id(n) for n in spread + sums)
        replaced[id(node)] = moved
    backward: list[Node] = []
    for node in graph.backward:
        if id(node) not in dropped:
            backward += replaced.get(id(node), [node])
    return graph.with_nodes(graph.nodes, backward)


def _small_maps(graph: Graph) -> dict[tuple[Value, object], Value]:
    """What is pooled and cropped of a map y, by (y, `_spreads` of its gradient)."""
    found: dict[tuple[Value, object], Value] = {}
    for node in graph.nodes:
        y = node.inputs[0] if node.inputs else None
        if y is not None and isinstance(node.op, MaxPool):
            found[y, node.outputs[1]] = node.output
        elif y is not None and isinstance(node.op, Crop):
            found[y, (node.op.start(y.type), node.output.type)] = node.output
    return found


def _spreads(node: Node) -> object:
    """What a gradient spreads over the map: the winners' places, or a window."""
    if isinstance(node.op, MaxPoolGradient):
        return node.inputs[1]
    if isinstance(node.op, CopyWindow):
        return tuple(-start for start in node.op.start), node.inputs[0].type
    return None
