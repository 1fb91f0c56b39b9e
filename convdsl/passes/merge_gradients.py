"""dx = grad_input(dy, w), dw = grad_weight(x, dy) => one kernel, for depthwise convolutions.

Each pixel of dx is gathered from just those of dy that its x is multiplied with in dw, so both are
made while they are in registers, and x and dy are read once. Assumes a differentiated graph, before
groups are made. Leaves alone gradients that only the network's input asks for, which may never run;
layers with a bias, whose gradient counts every pixel of dy; more filters than one a channel, and
more taps than there are registers to sum them in; and maps so small that the whole step may be one
kernel (`step_at_once`).
"""

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._depthwise_gradients import (
    DepthwiseGradients,
    DepthwiseGradInput,
    DepthwiseGradWeight,
)
from convdsl.passes.step_at_once import LEAST_ELEMENTS


def merge_gradients(graph: Graph) -> Graph:
    """The graph with such pairs as one node, at the place of the first."""
    wanted = {id(node) for node in graph.toward_parameters}
    made = {value for node in graph.backward for value in node.outputs}
    waiting: dict[tuple[Value, object], Node] = {}
    pairs: dict[int, Node | None] = {}
    for node in graph.backward:
        op = node.op
        if not isinstance(op, DepthwiseGradInput | DepthwiseGradWeight) or id(node) not in wanted:
            continue
        if not DepthwiseGradients(op.geometry).is_possible:
            continue
        key = node.inputs[-1], op.geometry
        other = waiting.get(key)
        if other is None or isinstance(other.op, type(op)):
            waiting[key] = node
            continue
        to_input, to_weight = (node, other) if isinstance(op, DepthwiseGradInput) else (other, node)
        x = to_weight.inputs[0]
        small = not graph.updates and x.type.elements < LEAST_ELEMENTS
        if small or x in made or len(to_weight.outputs) > 1:
            continue
        del waiting[key]
        pairs[id(node)] = None
        pairs[id(other)] = Node(
            DepthwiseGradients(op.geometry),
            to_weight.inputs,
            to_input.parameters,
            (*to_input.outputs, *to_weight.outputs),
            node.origin,
        )
    backward = (pairs.get(id(node), node) for node in graph.backward)
    return graph.with_nodes(graph.nodes, [node for node in backward if node is not None])
