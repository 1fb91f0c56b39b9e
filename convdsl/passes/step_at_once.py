"""A fused training graph -> what a training step in a handful of launches is made of, or None.

A step of a small network is mostly the start of kernels. Where no layer mixes samples, one program
can take some samples through the forward pass, the loss and the gradients of all activations, layer
after layer; what sums over the batch, the gradients of parameters, follows over all samples:

    samples  nodes whose results belong to one sample each
    weights  nodes of the backward part whose results do not

Assumes that gradients are linear in the loss's, so that a factor of the loss may come last. Nothing
is rewritten: `convdsl.codegen.step` writes the kernels.
"""

from dataclasses import dataclass

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group, members
from convdsl.ir.launch import Tail
from convdsl.ir.op import Layer
from convdsl.ir.types import TensorType

#: programs of the kernel that goes through the samples: two for each of about 132 multiprocessors
PROGRAMS = 264
#: every program reads all weights, forward and backward: of 64k in fp32 264 programs read 132 MB
#: from the L2 cache, in about the time that twenty kernels take to start
MOST_WEIGHTS = 65_536
#: of parameters: with pointers to many more, as of the 36 of LeNet-1, registers spill
MOST_TENSORS = 24
#: per sample: a program does these by itself, three times over, while a device's other kernels
#: would share them; at 64 a cycle 2 M take about 60 us, as long as starting those kernels takes
MOST_MACS = 2_000_000
#: per sample, bytes in fp32 of all that is made on the way: for 264 programs 66 MB, of which what
#: is read next lies in an L2 cache of 50 MB
MOST_BYTES = 262_144
#: elements of a sample of a map, of which with those of its gradient there are too many
LEAST_ELEMENTS = MOST_BYTES // 4 // 2


@dataclass(frozen=True, slots=True)
class AtOnce:
    """The nodes of the backward part that gradients of parameters need, in order.

    programs: at most so many share the samples.
    """

    samples: tuple[Node, ...]
    weights: tuple[Node, ...]
    programs: int = PROGRAMS

    @property
    def each(self) -> str:
        """Samples of a program, an expression of the batch size ``n``."""
        return f"max(1, triton.cdiv(n, {self.programs}))"

    @property
    def count(self) -> str:
        """How many programs there are, an expression of ``n``."""
        return f"triton.cdiv(n, {self.each})"


def step_at_once(graph: Graph) -> AtOnce | None:
    """None where layers mix samples, several outputs have losses, or the work is too much.

    Nor may kernels work out what they load, by numbers of elements that begin elsewhere, or work on
    slices of wider tensors.
    """
    if graph.places.of:
        return None
    if len(graph.outputs) != 1 or graph.outputs[0].head is None or graph.outputs[0].training_only:
        return None
    needed = graph.toward_parameters
    samples = tuple(node for node in needed if _is_batched(node))
    weights = tuple(node for node in needed if not _is_batched(node))
    if any(isinstance(node.op, Group) and node.op.prologues for node in graph.all_nodes):
        return None
    if not weights or graph.updates or not _is_small(graph, (*graph.nodes, *samples)):
        return None
    summed = {value for node in weights for value in node.outputs}
    for node in (*graph.nodes, *samples):
        mixes = not _is_batched(node) or summed.intersection(node.inputs)
        if mixes or any(member.op.smallest_batch(*_types(member)) > 1 for member in members(node)):
            return None
        if not all(value.type.batched for value in _scratch(node)):
            return None
    return AtOnce(samples, weights)


def _is_batched(node: Node) -> bool:
    """All of what it makes belongs to samples."""
    return all(value.type.batched for value in node.outputs)


def _is_small(graph: Graph, nodes: tuple[Node, ...]) -> bool:
    layers = [m for node in graph.nodes for m in members(node) if isinstance(m.op, Layer)]
    macs = sum(m.op.macs(*_types(m)) for m in layers if isinstance(m.op, Layer))
    weights = sum(p.value.type.elements for p in graph.learned)
    made = sum(v.type.dtype.bytes(v.type.elements, 4) for node in nodes for v in node.outputs)
    few = len(graph.parameters) <= MOST_TENSORS
    return few and macs <= MOST_MACS and weights <= MOST_WEIGHTS and made <= MOST_BYTES


def _types(node: Node) -> tuple[TensorType, ...]:
    return tuple(value.type for value in node.inputs)


def _scratch(node: Node) -> tuple[Value, ...]:
    if node.op.is_view(node.inputs[0].type):
        return ()
    tail = Tail(node.op.result if isinstance(node.op, Group) else node.output, alone=True)
    return node.op.schedule(node, tail).scratch
