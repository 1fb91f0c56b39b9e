"""y = concat(a, b, ...) => a, b, ... are made in y; d_a = slice(dy) => d_a is read in dy.

A branch of a CONCAT gets no tensor of its own: the kernel that makes it stores its rows that many
elements apart that y has channels, and whatever else reads the branch finds it there. The same for
slices of a gradient that no kernel works on before they are stored. Nothing is copied.

Which kernels can do this is seen in their launches: those that have the `Stride` of the tensor
among their arguments, and epilogues always. Pointwise kernels are given the nest that has strides.
A copy stays where a kernel cannot, and for inputs, for results of the network, for the second place
of a value that stands in two, and where channels do not start at whole vectors of memory.

Assumes that groups are made: it is about kernels. Does not move nodes or change what they mean.
"""

from collections.abc import Iterable
from dataclasses import replace

from convdsl.ir.broadcast import tile_of
from convdsl.ir.choices import group_of
from convdsl.ir.graph import Graph, Node, Place, Places, Value
from convdsl.ir.group import Group, updated
from convdsl.ir.launch import Launch, Stride, Tail
from convdsl.ops._stack import Stack
from convdsl.ops.concat import Concat, Join, Slice, starts

#: channels before a slice, and of the whole, are multiples of this: 16 bytes in 16-bit types
ALIGNMENT = 8


def place_slices(graph: Graph) -> Graph:
    """The graph with its `places`, and CONCATs that copy only what is not there."""
    users, results = graph.users(), graph.results()
    places: dict[Value, Place] = {}
    for nodes in (graph.nodes, graph.backward):
        makers = {value: node for node in nodes for value in node.outputs}
        for part, place in _wanted(nodes, users.keys() | results):
            maker = makers.get(part)
            if (
                maker is not None
                and part not in places
                and part not in results
                and _fits(part, place)
                and all(takes_slices(node, part) for node in (maker, *users.get(part, ())))
            ):
                places[part] = place
    if not places:
        return graph
    made = graph.with_nodes(
        (_placed(node, places) for node in graph.nodes),
        (_placed(node, places) for node in graph.backward),
    )
    return replace(made, places=Places(places))


def is_aligned(channels: int) -> bool:
    """So many are whole vectors of memory."""
    return channels % ALIGNMENT == 0


def _wanted(nodes: Iterable[Node], read: set[Value]) -> Iterable[tuple[Value, Place]]:
    """The values that could lie in another one, of those that are read, and where."""
    for node in nodes:
        if isinstance(node.op, Concat | Stack) and node.output in read:
            for part, start in zip(node.inputs, starts(node.inputs), strict=True):
                yield part, Place(node.output, start)
        elif isinstance(node.op, Slice):
            yield node.output, Place(node.inputs[0], node.op.start)


def _fits(part: Value, place: Place) -> bool:
    """It is the whole's kind of tensor, and its rows start where a vector does."""
    whole = place.whole.type
    if replace(whole, shape=part.type.shape) != part.type:
        return False
    return is_aligned(place.start) and (is_aligned(whole.channels) or not whole.batched)


def takes_slices(node: Node, value: Value) -> bool:
    """No kernel of the node needs ``value`` in a tensor of its own."""
    if isinstance(node.op, Slice) and node.output == value:
        return True  # it is not worked out at all
    if node.op.is_view(node.inputs[0].type):
        return False
    if not value.type.batched:  # one row
        return value not in updated(node)
    group = node.op if isinstance(node.op, Group) else None
    # launches name what a prologue makes of the tensor that they load
    chains = group.prologues if group else ()
    names = {value, *(chain[-1].output for chain in chains if tile_of(chain[0]) == value)}
    launches = _launches(_by_rows(node))
    return all(_has_stride(launch, name) for launch in launches for name in names)


def _placed(node: Node, places: dict[Value, Place]) -> Node:
    """The node as its kernels find their operands and leave their results."""
    if isinstance(node.op, Concat | Stack):
        here = {(part, place.start) for part, place in places.items() if place.whole == node.output}
        branches = enumerate(zip(node.inputs, starts(node.inputs), strict=True))
        copied = tuple(number for number, branch in branches if branch not in here)
        if len(copied) == len(node.inputs):
            return node
        return replace(node, op=(Stack if isinstance(node.op, Stack) else Join)(copied))
    if node.op.is_view(node.inputs[0].type):
        return node
    operands = (*node.inputs, *node.outputs)
    values = [v for v in operands if v in places and v.type.batched]
    strided = all(_has_stride(launch, v) for launch in _launches(node) for v in values)
    return node if strided else _by_rows(node)


def _by_rows(node: Node) -> Node:
    """A pointwise node or group by the nest that has strides; others as they are."""
    group = group_of(node)
    anchor = group.anchor
    if anchor.op.expression(*(value.name for value in anchor.operands)) is None:
        return node
    return replace(node, op=replace(group, by_rows=True))


def _launches(node: Node) -> tuple[Launch, ...]:
    tail = Tail(node.op.result if isinstance(node.op, Group) else node.output)
    return node.op.schedule(node, tail).launches


def _has_stride(launch: Launch, value: Value) -> bool:
    """The launch does not touch the tensor, or knows how far its rows are apart."""
    arguments = launch.arguments.values()
    strides = {argument.value for argument in arguments if isinstance(argument, Stride)}
    return value in strides or value not in arguments
