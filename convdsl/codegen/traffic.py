"""Launches of a training step -> the bytes each must move between its kernel and memory.

A kernel reads every distinct element that it loads once, whatever the cache has to do for that, and
writes every element that it stores once; a tensor that two kernels read counts twice. So this is
the least that the launches as written can move, not what a device will be seen to move. What is
loaded and stored follows from the kernels' text (`convdsl.codegen.pointers`), and how much of it
from the tensors' types and `Launch.touched`. Weights of classes count whole, though only those of
labels that occur are read, and so do operands of an epilogue whose map a pooling crops.

Beside the network's kernels counts the optimiser: `convdsl.SGD` with momentum on float32 masters,
whose kernel also writes the copy of the weights that kernels read in a 16-bit type. Where weights
are shrunk to a greatest norm behind its back, the next pass makes that copy again. Not counted: how
the inputs come to lie in memory in the computing type and channels last, that shrinking, penalties
of weights, and scalars.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from convdsl.codegen.at_place import name_at
from convdsl.codegen.launches import EmittedLaunch, Part
from convdsl.codegen.pointers import Accesses, accesses, functions_of
from convdsl.codegen.triton_module import TritonText
from convdsl.ir.graph import Graph, Parameter, Value
from convdsl.ir.launch import Box, Size, worked_out

#: float32, what masters, gradients and momenta are
MASTER_BYTES = 4
#: the parts of a training step that is not `Part.STEP`
STEP = (Part.FORWARD, Part.LOSS, Part.BACKWARD)


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes that one launch reads and writes.

    part: forward, loss, backward or optimiser. kernel: the loop nest, or what torch does. of: the
    place in the program and the layers.
    """

    part: str
    kernel: str
    of: str
    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


@dataclass(frozen=True, slots=True)
class Traffic:
    """All of a training step in order."""

    batch: int
    dtype: str
    moves: tuple[Move, ...]

    @property
    def read(self) -> int:
        return sum(move.read for move in self.moves)

    @property
    def written(self) -> int:
        return sum(move.written for move in self.moves)

    @property
    def total(self) -> int:
        return self.read + self.written

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part, in order."""
        sums: dict[str, int] = {}
        for move in self.moves:
            sums[move.part] = sums.get(move.part, 0) + move.total
        return sums


def traffic(graph: Graph, made: TritonText, batch: int, dtype: str, compute: int) -> Traffic:
    """Of the step ``made`` of a fused training graph, for ``batch`` samples.

    compute: bytes of an element of ``dtype``, the computing type.
    """
    moves = [*_copies(graph, dtype, compute), *launch_moves(graph, made, batch, compute)]
    return Traffic(batch, dtype, (*moves, _optimizer(graph, compute)))


def launch_moves(
    graph: Graph,
    made: TritonText,
    batch: int,
    compute: int,
    parts: Iterable[Part] | None = None,
) -> Iterator[Move]:
    """What the launches of these parts move, part by part; None: of a step as it runs."""
    count = _Count(graph, functions_of(made.text), compute)
    if parts is None:
        at_once = any(launch.part is Part.STEP for launch in made.launches)
        parts = (Part.STEP,) if at_once else STEP
    for part in parts:
        for launch in made.launches:
            if launch.part is part:
                read, written = count(launch, batch)
                yield Move(part.value, launch.nest, launch.comment, read, written)


class _Count:
    """The bytes that a launch reads and writes."""

    def __init__(
        self, graph: Graph, functions: Mapping[str, ast.FunctionDef], compute: int
    ) -> None:
        self.functions, self.compute = functions, compute
        self.known: dict[tuple[str, tuple[tuple[str, str], ...]], Accesses] = {}
        self.sizes = {
            p.value: MASTER_BYTES if len(p.value.type.shape) <= 1 else compute
            for p in graph.parameters
        }

    def __call__(self, launch: EmittedLaunch, batch: int) -> tuple[int, int]:
        read: dict[Value, dict[str, int]] = {}
        written: dict[Value, dict[str, int]] = {}
        stretches = _stretches(launch, batch)
        for inner in launch.inner or (launch,):
            found = self._accesses(inner, name_at(inner.nest) if launch.inner else inner.nest)
            for elements, names in ((read, found.loads), (written, found.stores)):
                for value in dict.fromkeys(_tensors(inner, names)):
                    by_node = elements.setdefault(value, {})
                    count = self._elements(inner, value, batch, stretches)
                    by_node[inner.comment] = by_node.get(inner.comment, 0) + count
        return self._bytes(read, batch), self._bytes(written, batch)

    def _accesses(self, launch: EmittedLaunch, function: str) -> Accesses:
        if not launch.is_ours:
            reads = launch.arguments["reads"]
            count = len(reads) if isinstance(reads, tuple) else 0
            return Accesses({f"reads[{i}]" for i in range(count)}, {"made"})
        key = function, tuple(launch.holes.items())
        if key not in self.known:
            self.known[key] = accesses(self.functions, function, launch.holes)
        return self.known[key]

    def _elements(
        self, launch: EmittedLaunch, value: Value, batch: int, stretches: list[int]
    ) -> int:
        if value not in launch.touched:
            return _whole(value, batch)
        text = launch.touched[value]
        return sum(worked_out(text, n) for n in stretches)

    def _bytes(self, elements: Mapping[Value, Mapping[str, int]], batch: int) -> int:
        """Launches of one node share a tensor out; what several nodes read is read once."""
        total = 0
        for value, by_node in elements.items():
            count = min(max(by_node.values()), _whole(value, batch))
            size = value.type.dtype.bytes(count, self.compute)
            total += count * self.sizes[value] if value in self.sizes else size
        return total


def _stretches(launch: EmittedLaunch, batch: int) -> list[int]:
    """How many samples each program has, where programs have samples of their own."""
    given = launch.arguments.get("each")
    each = worked_out(given.text, batch) if isinstance(given, Size) else batch
    return [min(each, batch - first) for first in range(0, batch, each)]


def _whole(value: Value, batch: int) -> int:
    return value.type.elements * (batch if value.type.batched else 1)


def _tensors(launch: EmittedLaunch, names: Iterable[str]) -> Iterator[Value]:
    """The tensors behind names of parameters, ``aux[2]`` for one of a tuple; others are none."""
    for name in names:
        parameter, _, place = name.rstrip("]").partition("[")
        argument = launch.arguments.get(parameter)  # the place of a program is no argument
        if isinstance(argument, tuple):
            yield argument[int(place)]
        elif isinstance(argument, Box):
            yield argument.value
        elif isinstance(argument, Value):
            yield argument


def _copied(graph: Graph, parameters: Iterable[Parameter]) -> int:
    """How many elements of these are in the copy that kernels read in a 16-bit type."""
    used = {value for node in graph.all_nodes for value in node.operands}
    kinds = [p.value.type for p in parameters if p.value in used]
    return sum(kind.elements for kind in kinds if len(kind.shape) > 1)


def _copies(graph: Graph, dtype: str, compute: int) -> Iterator[Move]:
    """The copy of the weights, where they change after the optimiser has written it."""
    if compute != MASTER_BYTES and any(parameter.bound for parameter in graph.learned):
        count = _copied(graph, graph.parameters)
        sizes = (count * MASTER_BYTES, count * compute)
        yield Move(Part.FORWARD.value, "cast", f"weights in {dtype}", *sizes)


def _optimizer(graph: Graph, compute: int) -> Move:
    """SGD with momentum: reads weight, gradient, momentum; writes weight, momentum and the copy."""
    size = MASTER_BYTES * sum(p.value.type.elements for p in graph.learned)
    copied = _copied(graph, graph.learned) * compute if compute != MASTER_BYTES else 0
    return Move("optimiser", "sgd", "SGD with momentum in fp32", 3 * size, 2 * size + copied)
