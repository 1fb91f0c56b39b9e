"""conv(f(x)) => conv with f as its prologue, for kernels that can work out what they load.

A pointwise kernel whose result is read only by kernels that can work it out as they load it
vanishes: batch normalisation and its activation before a 1x1 or depthwise convolution or a max
pooling, and the gradient of a batch normalisation behind a 1x1 convolution. It is worked out once
for every reader, so that pays where this moves less through memory: of T full tensors read,
T + 1 + R passes become R * T for R readers. What a device was seen to do faster by a kernel of its
own stays one (`ir.choices.Choices.apart`).

Assumes groups (`fuse_epilogues`). Groups only: text is code generation's work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from convdsl.ir.broadcast import element_of
from convdsl.ir.choices import group_of, problem_of
from convdsl.ir.graph import Graph, Node, Value


def fuse_prologues(graph: Graph) -> Graph:
    """The graph with such kernels as prologues of their readers."""
    apart = graph.choices.apart if graph.choices else frozenset()
    chains = {
        value: chain
        for value, (chain, readers) in chains_that_pay(graph).items()
        if not apart or key_of_chain(chain, readers) not in apart
    }

    def rewritten(nodes: tuple[Node, ...]) -> list[Node]:
        return [_with_prologues(n, chains) for n in nodes if n.output not in chains]

    return graph.with_nodes(rewritten(graph.nodes), rewritten(graph.backward))


def chains_that_pay(graph: Graph) -> dict[Value, tuple[tuple[Node, ...], list[Node]]]:
    """By what they make: chains that move less as prologues, and the nodes that read it."""
    users = graph.users()
    results = graph.results()
    found: dict[Value, tuple[tuple[Node, ...], list[Node]]] = {}
    for node in graph.all_nodes:
        chain = _pointwise(node)
        if not chain or node.output in results:
            continue
        readers = users.get(node.output, [])
        if readers and all(_takes(reader, node.output) for reader in readers):
            tiles = sum(element_of(v.type, node.output.type) == "offsets" for v in node.inputs)
            if tiles * len(readers) < tiles + 1 + len(readers):
                found[node.output] = chain, readers
    return found


def key_of_chain(chain: Sequence[Node], readers: Sequence[Node]) -> str:
    """The key in `Choices.apart` of a chain that the readers could work out."""
    titles = " ".join(node.op.title for node in chain)
    return f"{titles} for " + ", ".join(sorted(map(problem_of, readers)))


def _pointwise(node: Node) -> tuple[Node, ...]:
    """The members of a kernel that makes one tensor by pointwise arithmetic; else nothing."""
    group = group_of(node)
    if len(node.outputs) > 1 or group.steps != group.nodes:
        return ()
    return group.nodes


def _takes(node: Node, value: Value) -> bool:
    """The node reads ``value`` once, by a kernel that can work it out."""
    group = group_of(node)
    anchor = group.anchor
    if group.pool is not None:
        return False  # products of rows do not pool
    reads = [v for member in group.members for v in member.operands]
    places = anchor.op.prologue_places(*(v.type for v in anchor.inputs))
    return reads.count(value) == 1 and value in [anchor.inputs[i] for i in places]


def _with_prologues(node: Node, chains: Mapping[Value, tuple[Node, ...]]) -> Node:
    taken = [v for v in node.inputs if v in chains]
    if not taken:
        return node
    group = group_of(node)
    group = replace(group, prologues=tuple(chains[v] for v in taken))
    return group.as_node(node.origin)
