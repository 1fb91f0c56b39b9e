"""f'(y) * g => f'(bits) * g, bits = condition(y), where a condition is all that f' asks of y.

The kernel that makes y stores the bits, and the one that works out the gradient reads them in place
of y. Assumes a differentiated graph whose activations behind a pooling have been hoisted. Leaves
alone what would need a pass of its own, a y that a pooling makes and channels that fill no bytes;
vectors, of which little is to be spared; and a y that is pooled in the kernel that makes it, which
has no registers left.
"""

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._bits import Bits, GradientByBits
from convdsl.ops._pointwise import Pointwise, PointwiseGradient


def pack_masks(graph: Graph) -> Graph:
    """The graph with such gradients, and the bits behind the activations."""
    users = graph.users()
    activations = {
        node.output: node
        for node in graph.nodes
        if isinstance(node.op, Pointwise) and node.op.condition
        if node.output.type.channels % 8 == 0 and node.output.type.spatial
        if not any(reader.op.pool_window for reader in users.get(node.output, []))
    }
    names = Builder({v.name for node in graph.all_nodes for v in (*node.operands, *node.outputs)})
    bits: dict[Value, Value] = {}
    backward = []
    for node in graph.backward:
        of = node.op.of if isinstance(node.op, PointwiseGradient) else None
        y = node.inputs[-1]
        if of is not None and y in activations and activations[y].op == of:
            if y not in bits:
                (kind,) = Bits(of).infer(y.type)
                bits[y] = names.value(f"{y.name}_bits", kind)
            inputs = (node.inputs[0], bits[y])
            node = Node(GradientByBits(of), inputs, (), node.outputs, node.origin)
        backward.append(node)
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if isinstance(node.op, Pointwise) and node.output in bits:
            y = node.output
            nodes.append(Node(Bits(node.op), (y,), (), (bits[y],), node.origin))
    return graph.with_nodes(nodes, backward)
