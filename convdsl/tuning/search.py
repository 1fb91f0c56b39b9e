"""A network and a bench -> the choices that were fastest on it.

First the tile of every distinct product. Then, where fusion is a question, both answers: a chain
worked out in the kernels that read it or by a kernel of its own, and a convolution by our kernels
or by the library. Those are timed on all the kernels that differ, forward and backward together.

Pure: the bench builds, checks and times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from convdsl.compiler import Network
from convdsl.ir.choices import Choices, group_of, key_of, product_of, tile_of
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import members
from convdsl.ir.launch import Launch
from convdsl.ir.tile import Tile
from convdsl.ops._library import convolutions, in_library
from convdsl.passes.fuse_prologues import chains_that_pay, key_of_chain
from convdsl.tuning.candidates import Machine, candidates, cost, variants, varied
from convdsl.tuning.piece import Piece, piece_of

#: candidates of a product that are built, and those of them that are timed; half of it of each
#: variant of its loop nest
BUILT, TIMED = 16, 6
#: a choice other than the static one must be so much faster: less is noise
MARGIN = 0.98


@dataclass(frozen=True, slots=True)
class Built:
    """What a build costs: registers of a thread, bytes of stack for spilled ones, shared memory."""

    registers: int
    spills: int
    shared: int


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of a graph as a file."""

    graph: Graph
    nodes: tuple[Node, ...]
    piece: Piece

    @staticmethod
    def of(graph: Graph, nodes: Sequence[Node]) -> "Part":
        return Part(graph, tuple(nodes), piece_of(graph, nodes))


class Bench(Protocol):
    """A device, or a stand-in. size: bytes of an element of the computing type."""

    machine: Machine
    batch: int
    size: int

    def build(self, parts: Sequence[Part]) -> list[Built | None]:
        """Of each part's product, side by side; None for what does not compile."""
        ...

    def is_right(self, part: Part) -> bool:
        """It makes what its nodes mean."""
        ...

    def seconds(self, runs: Mapping[str, Part]) -> dict[str, float]:
        """The median time of each, taken in turn."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """One question: its key, the static answer and the best, each with its seconds."""

    key: str
    static: str
    best: str
    static_seconds: float
    seconds: float

    @property
    def line(self) -> str:
        """``41.3 us -> 35.2 us  128x64x64 8w 3s  conv_forward ...``"""
        times = f"{1e6 * self.static_seconds:9.1f} us -> {1e6 * self.seconds:9.1f} us"
        return f"{times}  {self.best:<20}  {self.key}"


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choices and how each was found."""

    choices: Choices
    found: tuple[Found, ...]

    def summary(self, network: Network) -> str:
        """How much was found, and whose the convolutions are, in two lines."""
        ours, all_ = convolutions(network.chosen(self.choices).fused)
        better = sum(found.best != found.static for found in self.found)
        return (
            f"{len(self.found)} questions measured, {better} answered otherwise than by shapes\n"
            f"{ours} of {all_} convolutions and gradients of convolutions are our kernels\n"
        )


def search(
    network: Network,
    bench: Bench,
    *,
    library: bool = False,
    tell: Callable[[Found], None] = lambda found: None,
) -> Tuned:
    """The fastest choices for the network's training step. library: may it do convolutions?"""
    hunt = _Hunt(network, bench, tell)
    asked = chains(network)
    apart = Choices(apart=frozenset(asked))
    for choices in (hunt.choices, hunt.choices | apart):
        hunt.tiles(choices)
    for key, value in asked.items():
        hunt.either(value, key, Choices(apart=frozenset({key})), ("in its readers", "apart"))
    for key, value in hunt.convolutions().items() if library else ():
        hunt.either(value, key, Choices(library=frozenset({key})), ("ours", "library"))
    return Tuned(hunt.choices, tuple(hunt.found))


class _Hunt:
    """The choices so far."""

    def __init__(self, network: Network, bench: Bench, tell: Callable[[Found], None]) -> None:
        self.network, self.bench, self.tell = network, bench, tell
        self.choices = network.choices
        self.found: list[Found] = []

    def graph(self, choices: Choices) -> Graph:
        return replace(self.network, choices=choices).fused

    def convolutions(self) -> dict[str, Value]:
        """The questions of `passes.use_library`, each with what one such convolution makes."""
        found: dict[str, Value] = {}
        for node in self.graph(self.choices).all_nodes:
            anchor = group_of(node).anchor
            if in_library(anchor) is not None and (key := key_of(anchor)):
                found.setdefault(key, anchor.output)
        return found

    def tiles(self, choices: Choices) -> None:
        """Of every product of the graph that has none yet."""
        graph = self.graph(choices)
        new: dict[str, Node] = {}
        for node in graph.all_nodes:
            if (key := key_of(node)) and key not in self.choices.tiles:
                new.setdefault(key, node)
        plans = {key: self._candidates(node) for key, node in new.items()}
        parts = {
            key: {tile: Part.of(graph, [_tiled(new[key], tile)]) for tile in tiles}
            for key, tiles in plans.items()
        }
        built = self.bench.build([part for of_key in parts.values() for part in of_key.values()])
        facts = iter(built)
        for key, of_key in parts.items():
            launch = product_of(new[key])
            assert launch is not None
            known = {tile: next(facts) for tile in of_key}
            self._tile(key, launch, of_key, known)

    def _candidates(self, node: Node) -> list[Tile]:
        """The static tile, then others."""
        launch = product_of(node)
        assert launch is not None
        static = tile_of(launch)
        machine, batch, size = self.bench.machine, self.bench.batch, self.bench.size
        found = [static]
        for variant in variants(launch, machine):
            ranked = candidates(launch, machine, batch, size, variant)
            fitting = (t for t in ranked if t != static and _fits(node, t))
            found += varied(fitting, BUILT // 2 if variant else BUILT)
        return found

    def _tile(
        self,
        key: str,
        launch: Launch,
        parts: Mapping[Tile, Part],
        built: Mapping[Tile, Built | None],
    ) -> None:
        """The fastest of the tiles, of which the first is the static one."""
        bench, (static, *others) = self.bench, parts

        def rank(tile: Tile) -> float:
            made = built[tile]
            assert made is not None
            facts = made.registers, made.shared
            return cost(launch, tile, bench.machine, bench.batch, bench.size, *facts)

        limit = bench.machine.shared_limit
        usable = [t for t in others if (b := built[t]) and not b.spills and b.shared <= limit]
        best: list[Tile] = []
        for variant in variants(launch, bench.machine):
            ranked = sorted((t for t in usable if t.variant == variant), key=rank)
            best += ranked[: TIMED // 2 if variant else TIMED]
        runs = {t: parts[t] for t in best if bench.is_right(parts[t])}
        named = {"static": parts[static], **{_show(t): part for t, part in runs.items()}}
        seconds = bench.seconds(named)
        winner = min(runs, key=lambda tile: seconds[_show(tile)], default=static)
        if winner != static and seconds[_show(winner)] >= MARGIN * seconds["static"]:
            winner = static
        self.choices = self.choices.with_tile(key, winner)
        took = seconds["static" if winner == static else _show(winner)]
        self._note(Found(key, _show(static), _show(winner), seconds["static"], took))

    def either(self, value: Value, key: str, other: Choices, names: tuple[str, str]) -> None:
        """Takes the ``other`` choice if all the kernels that differ are faster together."""
        mine, theirs = self.graph(self.choices), self.graph(self.choices | other)
        here, there = differing(mine, theirs, value)
        if not here or not there:
            return
        now, then = Part.of(mine, here), Part.of(theirs, there)
        if not self.bench.is_right(then):
            return
        seconds = self.bench.seconds({"now": now, "then": then})
        faster = seconds["then"] < MARGIN * seconds["now"]
        if faster:
            self.choices |= other
        best, took = (names[1], seconds["then"]) if faster else (names[0], seconds["now"])
        self._note(Found(key, names[0], best, seconds["now"], took))

    def _note(self, found: Found) -> None:
        self.found.append(found)
        self.tell(found)


def chains(network: Network) -> dict[str, Value]:
    """The questions of `passes.fuse_prologues`, each with what one such chain makes."""
    if "fuse_prologues" in network.without:
        return {}
    without = (*network.without, "fuse_prologues", "place_slices", "choose_tiles")
    graph = replace(network, without=without, choices=Choices()).fused
    found: dict[str, Value] = {}
    for value, chain in chains_that_pay(graph).items():
        found.setdefault(key_of_chain(*chain), value)
    return found


def differing(one: Graph, other: Graph, value: Value) -> tuple[list[Node], list[Node]]:
    """The kernels that make ``value`` on their way, and all that the two graphs do otherwise there.

    Both lists make the same values of the same values.
    """
    wanted = {value}
    while True:
        here, there = ([n for n in g.all_nodes if wanted & _made(n)] for g in (one, other))
        grown = wanted.union(*map(_made, (*here, *there)))
        if grown == wanted:
            return here, there
        wanted = grown


def _made(node: Node) -> set[Value]:
    return {value for member in members(node) for value in member.outputs}


def _tiled(node: Node, tile: Tile) -> Node:
    return replace(node, op=replace(group_of(node), tile=tile))


def _fits(node: Node, tile: Tile) -> bool:
    """Reductions need bands of rows, which not every tile has."""
    group = replace(group_of(node), tile=tile)
    return not group.reductions or group.band is not None


def _show(tile: Tile) -> str:
    """``128x64x32 8w 3s``"""
    splits = f" /{tile.splits}" if tile.splits else ""
    variant = f" {tile.variant}" if tile.variant else ""
    return f"{tile.m}x{tile.n}x{tile.k}{splits} {tile.warps}w {tile.stages}s{variant}"
