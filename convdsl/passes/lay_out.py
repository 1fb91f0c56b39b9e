"""conv(x, w) => conv(channels_first(x), w) where maps are small beside their filters.

For plain PyTorch, in which maps lie channels last. oneDNN, which convolves on a CPU, is quicker so,
but for maps of a few pixels with many channels: 3x3 over 512 channels of 2x2 pixels take a quarter
to twice as long, by the processor (benchmarks/cpu, VGG for CIFAR). At 4x4 some are quicker one way
and some the other, and batch normalisation is slower channels first, so those stay as they are.
What follows such a convolution lies as its output does. The backward part must be empty.
"""

from dataclasses import replace
from math import prod

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._layout import ChannelsFirst
from convdsl.ops.conv import Conv
from convdsl.passes.rewrite import substitute

#: most pixels of such a map, and least numbers of its filters
PIXELS, NUMBERS = 4, 1 << 17


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
    """A convolution of small maps, no product of their pixels and no step down to them."""
    (x,), weight = conv.inputs, conv.parameters[0].type
    taps = prod(weight.shape[2:])
    return taps > 1 and x.type.pixels <= PIXELS and weight.elements >= NUMBERS
