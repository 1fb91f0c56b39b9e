"""Lay out every activation of a training step in one arena by liveness over forward and backward.

A value lives from the node that makes it to the last node that reads it. Values are placed largest
first at the lowest offset free for their whole life (best-fit greedy, as in Pisarchyk and Lee,
2020, "Efficient Memory Management for Deep Neural Net Inference"). Views share the tensor they
view, and what lies in another value is part of its tensor. Parameters and their gradients live
outside the arena. Generated modules take each tensor from torch's allocator and give it back after
its last use, in a `TrainingStep` what was saved too; elsewhere, and before torch 2.13, autograd
holds that until the backward pass has ended, and the plan is the lower figure. In a step at once
all that it makes is there together.
"""

from dataclasses import dataclass

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group, updated
from convdsl.ir.launch import Tail
from convdsl.passes.step_at_once import AtOnce

ALIGNMENT = 256  # bytes, as CUDA allocations are aligned


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor in the arena; positions count the nodes of forward and backward together."""

    value: Value
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one training step at a batch size.

    arena: everything that is made on the way. live_peak: the least any layout could need.
    saved: what the forward part keeps for the backward part. Master weights, gradients and the
    weights in the computing type are counted once each; the optimiser's state is not included.
    """

    batch: int
    arena: int
    live_peak: int
    saved: int
    parameters: int
    gradients: int
    stored_weights: int
    slots: tuple[Slot, ...]

    @property
    def total(self) -> int:
        return self.arena + self.parameters + self.gradients + self.stored_weights


def plan(
    graph: Graph, batch: int, compute_bytes: int = 4, at_once: AtOnce | None = None
) -> MemoryPlan:
    """The plan of a (differentiated, fused) graph for ``batch`` samples.

    compute_bytes: size of an activation's element, 4 for float32, 2 for bfloat16 and float16.
    at_once: see `step_at_once`.
    """
    nodes = graph.all_nodes
    if at_once:
        nodes = (*graph.nodes, *at_once.samples, *at_once.weights)
    parameters = {p.value for p in graph.parameters}
    outside = parameters | {g for v, g in graph.gradients if v in parameters}
    outside |= {value for node in nodes for value in updated(node)}
    root: dict[Value, Value] = {}
    first: dict[Value, int] = dict.fromkeys((*graph.inputs, *graph.cotangents), 0)
    last: dict[Value, int] = {}
    for position, node in enumerate(nodes):
        for value in node.operands:
            last[root.get(value, value)] = position
        for value in node.outputs:
            tensor = graph.places.root(value)
            if tensor != value:
                root[value] = root.get(tensor, tensor)
                first.setdefault(root[value], position)
                last[root[value]] = position
            elif node.op.is_view(node.inputs[0].type):
                root[value] = root.get(node.inputs[0], node.inputs[0])
            else:
                first.setdefault(value, position)
                last[value] = position
        for value in _scratch(node):
            first[value] = last[value] = position
    split = len(graph.nodes)
    for value in graph.cotangents:
        first[value] = split
    for value in graph.results():
        last[root.get(value, value)] = len(nodes)

    def size(value: Value) -> int:
        count = value.type.elements * (batch if value.type.batched else 1)
        raw = value.type.dtype.bytes(count, compute_bytes)
        return -(-raw // ALIGNMENT) * ALIGNMENT

    if at_once:
        first = dict.fromkeys(first, 0)
        last = dict.fromkeys((*first, *last), len(nodes))
    lives = [
        Slot(value, 0, size(value), start, last.get(value, start))
        for value, start in first.items()
        if value not in outside
    ]
    slots = _place(lives)
    saved = {root.get(v, v) for v in graph.saved}
    weights = sum(p.value.type.elements for p in graph.learned)
    return MemoryPlan(
        batch,
        max((s.offset + s.size for s in slots), default=0),
        _peak(lives),
        sum(size(v) for v in saved if v not in parameters),
        4 * weights,
        4 * weights,
        _stored_weights(graph, compute_bytes),
        tuple(slots),
    )


def _stored_weights(graph: Graph, compute_bytes: int) -> int:
    """The copy of the weights that kernels read in another type than float32."""
    return sum(
        p.value.type.elements * compute_bytes
        for p in graph.parameters
        if compute_bytes != 4 and len(p.value.type.shape) > 1
    )


def _scratch(node: Node) -> tuple[Value, ...]:
    if node.op.is_view(node.inputs[0].type):
        return ()
    tail = Tail(node.op.result if isinstance(node.op, Group) else node.output)
    return node.op.schedule(node, tail).scratch


def _place(lives: list[Slot]) -> list[Slot]:
    placed: list[Slot] = []
    for slot in sorted(lives, key=lambda s: (-s.size, s.first, s.value.name)):
        offset = 0
        rivals = [p for p in placed if p.first <= slot.last and slot.first <= p.last]
        for rival in sorted(rivals, key=lambda p: p.offset):
            if offset + slot.size <= rival.offset:
                break
            offset = max(offset, rival.offset + rival.size)
        placed.append(Slot(slot.value, offset, slot.size, slot.first, slot.last))
    return placed


def _peak(lives: list[Slot]) -> int:
    changes: dict[int, int] = {}
    for slot in lives:
        changes[slot.first] = changes.get(slot.first, 0) + slot.size
        changes[slot.last + 1] = changes.get(slot.last + 1, 0) - slot.size
    peak = live = 0
    for position in sorted(changes):
        live += changes[position]
        peak = max(peak, live)
    return peak
