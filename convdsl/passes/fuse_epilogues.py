"""pool(act(conv(x) + b) ...) => one kernel: an anchor with a pointwise epilogue.

Anchors are nodes whose kernel has an EPILOGUE hole: convolution, FC, their gradients to the
input, pooling gradients, and pointwise nodes themselves. The chain of pointwise users is worked
out on the tile while it is in registers; values others need on the way are stored from there. A
max pooling whose windows neither overlap nor leave the map may end the group of an anchor that
can pool.

Assumes a verified graph; works on the forward and the backward part by themselves. Groups only:
the text of an epilogue is code generation's work.
"""

from collections.abc import Sequence

from convdsl.ir.broadcast import element_of
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group

#: tensors an epilogue may read or write besides the anchor's own: bounds registers and signature
MOST_OPERANDS = 6


def fuse_epilogues(graph: Graph) -> Graph:
    """The graph with every fusible chain as one `Group` node."""
    users = graph.users()
    results = graph.results()
    return graph.with_nodes(
        _fuse(graph.nodes, users, results), _fuse(graph.backward, users, results)
    )


def _fuse(nodes: Sequence[Node], users: dict[Value, list[Node]], results: set[Value]) -> list[Node]:
    place = {id(node): i for i, node in enumerate(nodes)}
    taken: set[int] = set()
    groups: dict[int, Node] = {}
    for node in nodes:
        if id(node) in taken or not node.op.has_epilogue:
            continue
        chain = _grow(node, place, taken, users, results)
        if len(chain) > 1:
            taken.update(id(member) for member in chain)
            groups[id(chain[-1])] = _group(chain, users, results)
    # a group stands where its last member stood: all its operands are defined there, and
    # `_grow` took only members that no other node needs any earlier
    return [groups.get(id(n), n) for n in nodes if id(n) in groups or id(n) not in taken]


def _grow(
    anchor: Node,
    place: dict[int, int],
    taken: set[int],
    users: dict[Value, list[Node]],
    results: set[Value],
) -> list[Node]:
    chain = [anchor]
    # the first place where a node outside reads a value of the chain
    readers = (user for value in anchor.outputs[1:] for user in users.get(value, []))
    needed_from = min((place[id(r)] for r in readers if id(r) in place), default=len(place))
    while True:
        current = chain[-1].output
        followers = [n for n in users.get(current, []) if id(n) in place]
        if not followers:
            return chain
        nearest = min(followers, key=lambda n: place[id(n)])
        if id(nearest) in taken or place[id(nearest)] > needed_from:
            return chain
        others = (place[id(n)] for n in followers if n is not nearest)
        needed_from = min(needed_from, *others, len(place))
        if _can_pool(chain, nearest, users, results):
            return [*chain, nearest]
        if not _is_pointwise(nearest, current):
            return chain
        if len(_extra([*chain, nearest])) + len(chain) > MOST_OPERANDS:
            return chain
        chain.append(nearest)


def _is_pointwise(node: Node, current: Value) -> bool:
    """The node is pointwise in operands of the chain's own type, or spread over it."""
    names = (v.name for v in node.operands)
    return (
        node.op.expression(*names) is not None
        and node.output.type == current.type
        and all(element_of(v.type, current.type) for v in node.operands)
    )


def _can_pool(
    chain: list[Node], pool: Node, users: dict[Value, list[Node]], results: set[Value]
) -> bool:
    """The anchor can pool, and no unpooled value is stored from a map that pooling would crop."""
    window = pool.op.pool_window
    if window is None or not chain[0].op.can_pool or pool.inputs != (chain[-1].output,):
        return False
    sizes = chain[-1].output.type.spatial
    crops = any(size % extent for size, extent in zip(sizes, window, strict=True))
    return not crops or len(_group([*chain, pool], users, results).outputs) <= len(pool.outputs)


def _extra(chain: list[Node]) -> list[Value]:
    """Operands of the chain that come from outside and are not the anchor's own."""
    made = {value for node in chain for value in node.outputs}
    return [v for node in chain[1:] for v in node.operands if v not in made]


def _group(chain: list[Node], users: dict[Value, list[Node]], results: set[Value]) -> Node:
    inner = {id(node) for node in chain}
    made = {value for node in chain for value in node.outputs}
    stored = tuple(
        value
        for node in chain
        for value in node.outputs
        if value == chain[-1].output
        or value in results
        or any(id(user) not in inner for user in users.get(value, []))
    )
    inputs = dict.fromkeys(v for node in chain for v in node.inputs if v not in made)
    parameters = dict.fromkeys(v for node in chain for v in node.parameters)
    group = Group(tuple(chain), stored)
    return Node(group, tuple(inputs), tuple(parameters), stored, chain[0].origin)
