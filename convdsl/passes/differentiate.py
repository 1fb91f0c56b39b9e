"""Add the explicit backward graph: reverse-mode differentiation.

For every node, from the last to the first, dL/d(operand) += node.op.gradient(dL/d(output)).
Assumes a verified forward graph. Leaves its nodes untouched. Does not prune: `drop_dead` does.
"""

from dataclasses import replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Value
from convdsl.ir.op import Layer
from convdsl.ops.add import Add


def differentiate(graph: Graph) -> Graph:
    """The graph with `backward`, `cotangents` and `gradients` filled in."""
    taken = {v.name for v in graph.inputs} | {p.value.name for p in graph.parameters}
    taken |= {v.name for node in graph.nodes for v in node.outputs}
    build = Builder(taken)
    gradients: dict[Value, Value] = {}

    def contribute(value: Value, gradient: Value) -> None:
        if value in gradients:
            (gradient,) = build.add(Add(), gradients[value], gradient, names=(f"d_{value.name}",))
        gradients[value] = gradient

    cotangents = []
    for output in graph.outputs:
        cotangent = build.value(f"d_{output.value.name}", output.value.type)
        cotangents.append(cotangent)
        contribute(output.value, cotangent)
    for node in reversed(graph.nodes):
        dy = gradients.get(node.output)
        if dy is not None:
            assert isinstance(node.op, Layer), "the forward graph holds layers only"
            build.origin = node.origin
            for value, gradient in node.op.gradient(node, dy, build).items():
                contribute(value, gradient)
    ends = (*graph.inputs, *(p.value for p in graph.learned))
    return replace(
        graph,
        backward=tuple(build.nodes),
        cotangents=tuple(cotangents),
        gradients=tuple((v, gradients[v]) for v in ends if v in gradients),
    )
