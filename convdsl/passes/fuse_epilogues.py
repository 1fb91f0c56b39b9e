"""pool(act(conv(x) + b) ...) => one kernel: an anchor with a pointwise epilogue.

Anchors are nodes whose kernel has an EPILOGUE hole: convolution, FC, their gradients to the
input, pooling gradients, and pointwise nodes themselves. The chain of pointwise users is worked
out on the tile while it is in registers, as are pointwise operands that nobody else needs; values
others need on the way are stored from there, and bits of them too. A max pooling whose windows
neither overlap nor leave the map may end the group of an anchor that can pool. Reductions over the
rows of what the group makes begin in the same kernel, where its tiles are bands of rows.

Assumes a verified graph; works on the forward and the backward part by themselves. Groups only:
the text of an epilogue is code generation's work.
"""

from collections.abc import Sequence

from convdsl.ir.broadcast import element_of
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group
from convdsl.ir.reduction import RowReduction
from convdsl.ops._bits import Bits
from convdsl.ops.concat import Slice
from convdsl.passes.place_slices import is_aligned

#: tiles an epilogue may read or write besides the anchor's own: bounds registers and signature
MOST_OPERANDS = 6
#: reductions that may begin in one kernel: a residual block's end is the sum of two normalised maps
MOST_REDUCTIONS = 2


def fuse_epilogues(graph: Graph) -> Graph:
    """The graph with every fusible chain as one `Group` node."""
    users = graph.users()
    results = graph.results()
    return graph.with_nodes(
        _fuse(graph.nodes, users, results), _fuse(graph.backward, users, results)
    )


def _fuse(nodes: Sequence[Node], users: dict[Value, list[Node]], results: set[Value]) -> list[Node]:
    place = {id(node): i for i, node in enumerate(nodes)}
    made = {value: node for node in nodes for value in node.outputs}
    taken: set[int] = set()
    groups: dict[int, Node] = {}
    for node in nodes:
        if id(node) in taken or not node.op.has_epilogue or _lies_in_whole(node, users):
            continue
        chain = _grow(node, place, made, taken, users, results)
        bits = _bits(chain, users)
        reductions = _reductions(chain, users, made)
        if len(chain) > 1 or bits or reductions:
            taken.update(id(member) for member in (*chain, *bits, *reductions))
            groups[id(chain[-1])] = _group(chain, users, results, bits, reductions)
    # a group stands where its last member stood: all its operands are defined there, and
    # `_grow` took only members that no other node needs any earlier
    return [groups.get(id(n), n) for n in nodes if id(n) in groups or id(n) not in taken]


def _grow(
    anchor: Node,
    place: dict[int, int],
    made: dict[Value, Node],
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
        followers = [
            n for n in users.get(current, []) if id(n) in place and not isinstance(n.op, Bits)
        ]
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
        longer = [*chain, *_sides(chain, nearest, made, taken, users, results), nearest]
        if len(_tiles(longer)) + len(longer) - 1 > MOST_OPERANDS:
            return chain
        chain = longer


def _sides(
    chain: list[Node],
    node: Node,
    made: dict[Value, Node],
    taken: set[int],
    users: dict[Value, list[Node]],
    results: set[Value],
) -> list[Node]:
    """Pointwise nodes whose result only ``node`` reads, which follows the chain."""
    inner = {value for member in chain for value in member.outputs}
    found = (made.get(v) for v in node.operands if v not in inner and v not in results)
    return [
        side
        for side in dict.fromkeys(found)
        if side is not None
        and id(side) not in taken
        and len(side.outputs) == 1
        and users[side.output] == [node]
        and not inner.intersection(side.operands)
        and _is_pointwise(side, chain[-1].output)
    ]


def _bits(chain: list[Node], users: dict[Value, list[Node]]) -> list[Node]:
    """Conditions on what the epilogue has at hand: all but what a pooling makes.

    A kernel stores whole bytes of them, so its tiles must not begin within one.
    """
    pointwise = (n for n in chain if n is chain[0] or n.op.pool_window is None)
    readers = (user for node in pointwise for user in users.get(node.output, []))
    found = [node for node in readers if isinstance(node.op, Bits)]
    return found if found and Group(tuple(chain), ()).tiles_fill_bytes else []


def _reductions(
    chain: list[Node], users: dict[Value, list[Node]], made: dict[Value, Node]
) -> list[Node]:
    """Those of the chain's result that need nothing else of what this part makes."""
    result = chain[-1].output
    found = [
        node
        for node in users.get(result, [])
        if isinstance(node.op, RowReduction)
        and node.inputs[0] == result
        and not any(v in made for v in node.operands[1:])
    ]
    band = Group(tuple(chain), (result,), by_rows=True).band if found else None
    if band is None:
        return []
    ordered = band.phases == 1
    return [n for n in found if ordered or not _in_order(n)][:MOST_REDUCTIONS]


def _in_order(node: Node) -> bool:
    return isinstance(node.op, RowReduction) and node.op.in_order


def _lies_in_whole(node: Node, users: dict[Value, list[Node]]) -> bool:
    """A slice that is better found in the whole: by several who do the same with it, or by one
    whose result one kernel can work out as it loads it.
    """
    if not isinstance(node.op, Slice):
        return False
    readers = users.get(node.output, [])
    if len(readers) > 1:
        return len({(reader.op, reader.inputs) for reader in readers}) == 1
    if not (is_aligned(node.op.start) and is_aligned(node.inputs[0].type.channels)):
        return False
    for reader in readers:
        match users.get(reader.output, []):
            case [last] if _is_pointwise(reader, node.output):
                places = last.op.prologue_places(*(v.type for v in last.inputs))
                return reader.output in [last.inputs[i] for i in places]
    return False


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
    return not crops or set(_group([*chain, pool], users, results).outputs) <= set(pool.outputs)


def _tiles(chain: list[Node]) -> list[Value]:
    """Operands from outside, not the anchor's own, of which a whole tile must be read."""
    made = {value for node in chain for value in node.outputs}
    outside = (v for node in chain[1:] for v in node.operands if v not in made)
    return [v for v in outside if element_of(v.type, chain[-1].output.type) == "offsets"]


def _group(
    chain: list[Node],
    users: dict[Value, list[Node]],
    results: set[Value],
    bits: Sequence[Node] = (),
    reductions: Sequence[Node] = (),
) -> Node:
    inner = {id(node) for node in (*chain, *bits, *reductions)}
    drops = chain[0].op.may_drop_result and bool(reductions)
    stored = tuple(
        value
        for node in chain
        for value in node.outputs
        if (value == chain[-1].output and not drops)
        or value in results
        or any(id(user) not in inner for user in users.get(value, []))
    )
    # a pointwise anchor's tiles are bands in the nest of rows alone
    by_rows = bool(reductions) and _is_pointwise(chain[0], chain[0].output)
    group = Group(tuple(chain), stored, tuple(bits), tuple(reductions), by_rows=by_rows)
    return group.as_node(chain[0].origin)
