"""conv(f(x)) => conv with f as its prologue, for 1x1 convolutions and their gradients.

A pointwise kernel whose result is read only by kernels that can work it out as they load it
vanishes: batch normalisation and its activation before a 1x1 convolution, and the gradient of a
batch normalisation behind one. It is worked out once for every reader, so that pays where this
moves less through memory: of T full tensors read, T + 1 + R passes become R * T for R readers.

Assumes groups (`fuse_epilogues`). Groups only: text is code generation's work.
"""

from collections.abc import Mapping
from dataclasses import replace

from convdsl.ir.broadcast import element_of
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group


def fuse_prologues(graph: Graph) -> Graph:
    """The graph with such kernels as prologues of their readers."""
    users = graph.users()
    results = graph.results()
    chains: dict[Value, tuple[Node, ...]] = {}
    for node in graph.all_nodes:
        chain = _pointwise(node)
        if not chain or node.output in results:
            continue
        readers = users.get(node.output, [])
        if readers and all(_takes(reader, node.output) for reader in readers):
            tiles = sum(element_of(v.type, node.output.type) == "offsets" for v in node.inputs)
            if tiles * len(readers) < tiles + 1 + len(readers):
                chains[node.output] = chain

    def rewritten(nodes: tuple[Node, ...]) -> list[Node]:
        return [_with_prologues(n, chains) for n in nodes if n.output not in chains]

    return graph.with_nodes(rewritten(graph.nodes), rewritten(graph.backward))


def _pointwise(node: Node) -> tuple[Node, ...]:
    """The members of a kernel that makes one tensor by pointwise arithmetic; else nothing."""
    group = node.op if isinstance(node.op, Group) else Group((node,), node.outputs)
    if len(node.outputs) > 1 or group.steps != group.nodes:
        return ()
    return group.nodes


def _takes(node: Node, value: Value) -> bool:
    """The node reads ``value`` once, by a kernel that can work it out."""
    group = node.op if isinstance(node.op, Group) else Group((node,), node.outputs)
    anchor = group.anchor
    reads = [v for member in group.members for v in member.operands]
    places = anchor.op.prologue_places(*(v.type for v in anchor.inputs))
    return reads.count(value) == 1 and value in [anchor.inputs[i] for i in places]


def _with_prologues(node: Node, chains: Mapping[Value, tuple[Node, ...]]) -> Node:
    taken = [v for v in node.inputs if v in chains]
    if not taken:
        return node
    group = node.op if isinstance(node.op, Group) else Group((node,), node.outputs)
    group = replace(group, prologues=tuple(chains[v] for v in taken))
    return group.as_node(node.origin)
