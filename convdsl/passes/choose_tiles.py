"""A matrix product => the same with the tile that the device was best at.

Reads `Graph.choices`; what has no entry there keeps the static choice of its op. Runs last: a key
says what is fused around a product. Chooses tiles only: nothing is measured here.
"""

from dataclasses import replace

from convdsl.ir.choices import Choices, group_of, key_of
from convdsl.ir.graph import Graph, Node


def choose_tiles(graph: Graph) -> Graph:
    """The graph with tiles on the groups of all products that the choices know."""
    choices = graph.choices
    if choices is None or not choices.tiles:
        return graph

    def chosen(nodes: tuple[Node, ...]) -> list[Node]:
        return [_chosen(node, choices) for node in nodes]

    return graph.with_nodes(chosen(graph.nodes), chosen(graph.backward))


def _chosen(node: Node, choices: Choices) -> Node:
    tile = choices.tiles.get(key_of(node) or "")
    return node if tile is None else replace(node, op=replace(group_of(node), tile=tile))
