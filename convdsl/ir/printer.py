"""Graph -> text: the form of `--emit ir` and `--emit fused` and of the golden files.

%conv:6@28x28 = conv(%input, %stack_0_conv_weight)   # CONV(6, F=5) net.cnn:3
"""

from collections.abc import Iterable

from convdsl.ir.graph import Graph, Node, Places, Role, Value
from convdsl.ir.group import Group, members
from convdsl.ir.head import Head
from convdsl.ir.op import Layer, Op
from convdsl.ir.types import DType, Notation, TensorType


def show_type(kind: TensorType) -> str:
    """``6@28x28``, with the element kind behind it when it is not the computing one."""
    if kind.batched:
        text = Notation.CHW.show(kind) if kind.shape else "1"
    else:
        text = "[" + ", ".join(str(size) for size in kind.shape) + "]"
    return text if kind.dtype is DType.COMPUTE else f"{text}:{kind.dtype.value}"


def print_graph(graph: Graph) -> str:
    """The whole graph as text, one line a value; deterministic."""
    lines = [f"graph {graph.name}"]
    lines += [f"  input %{v.name}: {show_type(v.type)}" for v in graph.inputs]
    lines += [
        f"  {_ROLES[p.role]} %{p.value.name}: {show_type(p.value.type)}  # {p.path}"
        for p in graph.parameters
    ]
    lines += _nodes(graph.nodes, "  ", graph.places)
    for output in graph.outputs:
        head = f", {output.head.name}{_attributes(output.head)}" if output.head else ""
        lines.append(f"  output {output.name} = %{output.value.name}{head}")
    lines += [f"  update of %{v.name} = %{new.name}" for v, new in graph.updates]
    if graph.backward:
        given = ", ".join(f"%{v.name}" for v in graph.cotangents)
        lines.append(f"backward({given})")
        lines += _nodes(graph.backward, "  ", graph.places)
        lines += [f"  gradient of %{v.name} = %{g.name}" for v, g in graph.gradients]
    return "\n".join(lines) + "\n"


_ROLES = {Role.LEARNED: "parameter", Role.STATE: "state", Role.CONSTANT: "constant"}


def _nodes(nodes: Iterable[Node], indent: str, places: Places) -> list[str]:
    lines = []
    for node in nodes:
        lines.append(indent + _line(node, places))
        if isinstance(node.op, Group):
            lines += _nodes(members(node), indent + "  | ", Places())
    return lines


def _line(node: Node, places: Places) -> str:
    results = ", ".join(f"%{v.name}: {show_type(v.type)}{_place(v, places)}" for v in node.outputs)
    operands = ", ".join(_reference(v) for v in node.operands)
    text = f"{results} = {node.op.title}({operands})"
    if not isinstance(node.op, Group):
        text += _attributes(node.op)
    origin = node.origin
    if origin.span is not None:
        text += f"  # {origin.text} {origin.span.source.name}:{origin.span.line}"
    return text


def _place(value: Value, places: Places) -> str:
    """``  in %concat[64:192]``, for a value without a tensor of its own."""
    if (place := places.of.get(value)) is None:
        return ""
    return f" in %{place.whole.name}[{place.start}:{place.start + value.type.channels}]"


def _reference(value: Value) -> str:
    return f"%{value.name}"


def _attributes(op: Op | Head) -> str:
    """Arguments of a layer or head that are not at their default, as the language spells them."""
    if not isinstance(op, Layer | Head):
        return ""
    values = ((a, getattr(op, a.name)) for a in op.arguments())
    shown = [f"{a.name}={value!r}" for a, value in values if value != a.default]
    return " {" + ", ".join(shown) + "}" if shown else ""
