"""conv(x, w) => conv(channels_first(x), w) where maps are small beside their filters.

For plain PyTorch, in which maps lie channels last. oneDNN, which convolves on a CPU, is quicker so,
but for maps of a few pixels with many channels: with 512 it takes a third longer at 4x4, and at 2x2
twice as long forward and half as long again backward (benchmarks/cpu, VGG for CIFAR). What follows
such a convolution lies as its output does. The backward part must be empty.
"""

from dataclasses import replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._layout import ChannelsFirst
from convdsl.ops.conv import Conv
from convdsl.passes.rewrite import substitute

#: most pixels of such a map, and least numbers of its filters
PIXELS, NUMBERS = 16, 1 << 17


def lay_out(graph: Graph) -> Graph:
    """The graph with such inputs and weights channels first."""
    taken = {v.name for node in graph.nodes for v in (*node.operands, *node.outputs)}
    build = Builder(taken)
    laid: dict[Value, Value] = {}
    first: set[Value] = set()  # values that lie so, and the weights
    for node in graph.nodes:
        if isinstance(node.op, Conv) and _is_small(node):
            (x,), weight = node.inputs, node.parameters[0]
            if x not in laid and x not in first:
                build.origin = node.origin
                (laid[x],) = build.add(ChannelsFirst(), x, names=(f"{x.name}_laid",))
            first |= {weight, *node.outputs}
            node = substitute(node, laid)
        elif first.issuperset(node.inputs):
            first.update(node.outputs)
        build.nodes.append(node)
    parameters = (replace(p, permute=None) if p.value in first else p for p in graph.parameters)
    return replace(graph, parameters=tuple(parameters), nodes=tuple(build.nodes))


def _is_small(conv: Node) -> bool:
    pixels, numbers = conv.output.type.pixels, conv.parameters[0].type.elements
    return pixels <= PIXELS and numbers >= NUMBERS
