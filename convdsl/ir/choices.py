"""What was measured to be best on the device that code is generated for, as data.

Passes read it off the graph: `passes.choose_tiles` the tiles, `passes.fuse_prologues` what is to
stay a kernel of its own, `passes.use_library` what a library does. Where there is no entry the
static choice holds, so an empty table is a complete one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from convdsl.ir.graph import Node
from convdsl.ir.group import Group
from convdsl.ir.launch import Launch, Size, Tail
from convdsl.ir.tile import Tile

#: the arguments of a launch that a `Tile` decides
TILED = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "SPLIT")


@dataclass(frozen=True, slots=True)
class Choices:
    """Entries by the key of what they are about (`key_of`).

    tiles: of matrix products. apart: chains of pointwise nodes that stay kernels of their own, by
    `passes.fuse_prologues.key_of_chain`. library: nodes that a library does.
    """

    tiles: Mapping[str, Tile] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()
    library: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.tiles or self.apart or self.library)

    def __or__(self, other: "Choices") -> "Choices":
        """Both tables; of two tiles for one key that of ``other``."""
        tiles = {**self.tiles, **other.tiles}
        return Choices(tiles, self.apart | other.apart, self.library | other.library)

    def with_tile(self, key: str, tile: Tile) -> "Choices":
        return replace(self, tiles={**self.tiles, key: tile})


def group_of(node: Node) -> Group:
    """The node's group; a lone node is a group of one."""
    return node.op if isinstance(node.op, Group) else Group((node,), node.outputs)


def product_of(node: Node) -> Launch | None:
    """The launch of a node that a `Tile` decides, as it is now; None if it has none."""
    if node.op.is_view(node.inputs[0].type):
        return None
    group = group_of(node)
    for launch in group.schedule(node, Tail(group.result)).launches:
        if launch.product is not None:
            return launch
    return None


def tile_of(launch: Launch) -> Tile:
    """The tile of a launch that has one, of a general nest."""
    m, n, k, splits = (launch.arguments.get(name, 0) for name in TILED)
    assert isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
    assert isinstance(splits, int)
    return Tile(m, n, k, launch.warps, launch.stages, splits)


def key_of(node: Node) -> str | None:
    """What is compiled for a matrix product but for its tile; None if the node is none.

    Nodes of equal keys are one problem: the loop nest with its sizes, then what is fused around it.
    """
    launch = product_of(node if group_of(node).tile is None else _untiled(node))
    return None if launch is None else _problem(node, launch)


def problem_of(node: Node) -> str:
    """`key_of`, also where a kernel is no matrix product: its first launch then."""
    group = group_of(node)
    return key_of(node) or _problem(node, group.schedule(node, Tail(group.result)).launches[0])


def _problem(node: Node, launch: Launch) -> str:
    group = group_of(node)
    sizes = " ".join(
        f"{name}={value.text.replace(' ', '') if isinstance(value, Size) else int(value)}"
        for name, value in launch.arguments.items()
        if isinstance(value, int | Size) and name not in TILED
    )
    chains = [f"({_titles(chain)})" for chain in group.prologues]
    behind = (*group.nodes[1:], *group.bits, *group.reductions)
    around = [*chains, "*", _titles(behind)] if chains or behind else []
    return " ".join([launch.nest.function, sizes, *around])


def _untiled(node: Node) -> Node:
    return replace(node, op=replace(group_of(node), tile=None))


def _titles(nodes: Iterable[Node]) -> str:
    return " ".join(node.op.title for node in nodes)
