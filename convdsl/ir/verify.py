"""What must hold of every graph; run after lowering and after every pass."""

from dataclasses import replace

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group, members


class GraphError(AssertionError):
    """A pass left a graph that is not well formed: an error of the compiler, never of the user."""


def verify(graph: Graph, after: str) -> None:
    """Raise GraphError, naming the pass, unless the graph is in SSA form, ordered and typed."""

    def demand(condition: bool, what: str) -> None:
        if not condition:
            raise GraphError(f"after {after}: {what} (graph {graph.name})")

    defined: set[Value] = set()
    names: set[str] = set()

    def define(value: Value) -> None:
        demand(value.name not in names, f"{value.name} is defined twice")
        demand(value.name.isidentifier(), f"{value.name!r} is not an identifier")
        names.add(value.name)
        defined.add(value)

    def visit(node: Node) -> None:
        for value in node.operands:
            demand(value in defined, f"{node.op.title} reads {value.name} before its definition")
        types = node.op.infer(*(v.type for v in node.operands))
        if types != tuple(v.type for v in node.outputs):  # most nodes never need the long message
            demand(False, f"{node.op.title} infers {types} but its outputs are {node.outputs}")
        if isinstance(node.op, Group):
            _verify_group(node, node.op)
        for value in node.outputs:
            define(value)

    for value in graph.inputs:
        define(value)
    for parameter in graph.parameters:
        define(parameter.value)
    demand(
        len({p.path for p in graph.parameters}) == len(graph.parameters), "two parameters, one path"
    )
    for node in graph.nodes:
        visit(node)
    demand(all(o.value in defined for o in graph.outputs), "an output is never computed")
    for value in graph.cotangents:
        define(value)
    for node in graph.backward:
        visit(node)
    for part, place in graph.places.of.items():
        demand({part, place.whole} <= defined, f"the place of {part.name} is in no value there is")
        end = place.start + part.type.channels
        demand(end <= place.whole.type.channels, f"{part.name} ends outside {place.whole.name}")
        rows = replace(place.whole.type, shape=part.type.shape), part.type.spatial
        demand(rows == (part.type, place.whole.type.spatial), f"{part.name} has its whole's rows")
        demand(part not in graph.results(), f"{part.name} leaves the graph and has no tensor")
    for value, new in graph.updates:
        demand(new in defined, f"the update of {value.name} is never computed")
        demand(new.type == value.type, f"the update of {value.name} has its type")
    for value, gradient in graph.gradients:
        demand(gradient in defined, f"the gradient of {value.name} is never computed")
        demand(gradient.type.shape == value.type.shape, f"gradient of {value.name} has its shape")


def _verify_group(node: Node, group: Group) -> None:
    inner = set(node.operands)
    for member in members(node):
        missing = [v.name for v in member.operands if v not in inner]
        if missing:
            raise GraphError(f"group {group.title} does not list its operands {missing}")
        inner.update(member.outputs)
    if node.outputs != group.outputs or (
        group.drops_result and not (group.anchor.op.may_drop_result and group.reductions)
    ):
        raise GraphError(f"group {group.title} does not store its result")
