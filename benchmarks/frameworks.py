"""A training graph -> bytes that PyTorch eager and torch.compile would move for it, as models.

Works on the graph before any fusion: every layer, and every gradient, is a node of its own. As for
our own kernels, a tensor counts once for each kernel that reads it and once for each that writes
it. Both compute in one 16- or 32-bit type and store all maps channels last; casts of autocast and
copies into other layouts are left out, which flatters both. The optimiser is the foreach SGD with
momentum in float32, which reads and writes 24 bytes a weight.

Eager runs a kernel for every node, which reads all its operands and writes all its outputs, but

- the bias of filters is added by a pass of its own (1R 1W), and its gradient reads dy once more,
  as does that of a matrix product's bias;
- batch normalisation takes its statistics first (2R 1W), its gradient two sums (4R 1W);
- the winners of a pooling are int64;
- dropout stores a mask, a byte an element, which its gradient reads;
- what is an index expression in torch is a view: the gradient of a concatenation;
- a loss is log_softmax and nll_loss, in float32: 1R 1W, and 2R 2W of the gradient.

torch.compile (inductor) runs the matrix products, poolings and whatever else is not pointwise as
they are, and works out pointwise values where they are read:

- a pointwise value is stored if such a kernel reads it, if it is a result, or if it has more than
  `MOST_READS` operands of its own and more than one reader; others are worked out again by each
  reader, in the backward part as in the forward part;
- a reduction is taken while an operand of it is stored, if one is, and else reads its operands;
- biases are pointwise; a concatenation is written in place by those who store its parts;
- the winners of a pooling are int8, and dropout draws again;
- a loss reads its operand twice and writes the gradient.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from convdsl.compiler import Network
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.reduction import RowReduction
from convdsl.ir.types import DType
from convdsl.pipeline import OPTIONAL

#: passes that only tidy up
TIDY = frozenset({"drop_identity", "drop_dead"})
#: inductor's config.realize_reads_threshold
MOST_READS = 4
OPTIMIZER_BYTES = 24


@dataclass
class Bytes:
    """Of a training step."""

    forward: int = 0
    backward: int = 0
    optimizer: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward + self.optimizer


@dataclass(frozen=True)
class Step:
    """The nodes of a training step before fusion, and the sizes of their tensors."""

    graph: Graph
    batch: int
    compute: int
    forward: tuple[Node, ...]
    backward: tuple[Node, ...]

    @classmethod
    def of(cls, network: Network, batch: int, compute: int) -> "Step":
        """compute: bytes of an element of the computing type."""
        without = tuple(OPTIONAL - TIDY)
        plain = Network(network.source, network.program, network.lowered, without)
        graph = plain.fused
        parameters = {p.value for p in graph.parameters}
        wanted = {gradient for value, gradient in graph.gradients if value in parameters}
        needed = []
        for node in reversed(graph.backward):
            if any(value in wanted for value in node.outputs):
                wanted.update(node.inputs)
                needed.append(node)
        return cls(graph, batch, compute, graph.nodes, tuple(reversed(needed)))

    def size(self, value: Value, index: int = 1) -> int:
        """Bytes of a tensor; ``index``: of an element that says which of a window won."""
        kind = value.type
        each = self.compute
        if kind.dtype in (DType.INT8, DType.INT32):
            each = index
        elif kind.dtype is DType.FLOAT32 and len(kind.shape) <= 1:
            each = 4
        return kind.elements * each * (self.batch if kind.batched else 1)

    def sizes(self, values: Iterable[Value], index: int = 1) -> int:
        """Of all of them, each once."""
        return sum(self.size(value, index) for value in dict.fromkeys(values))

    @property
    def optimizer(self) -> int:
        return OPTIMIZER_BYTES * sum(p.value.type.elements for p in self.graph.learned)

    @property
    def scores(self) -> int:
        """Elements of all outputs that have a head."""
        heads = [o.value.type for o in self.graph.outputs if o.head is not None]
        return self.batch * sum(kind.elements for kind in heads)


def eager(step: Step) -> Bytes:
    """PyTorch without compilation."""
    return Bytes(
        sum(_eager(step, node) for node in step.forward) + 2 * 4 * step.scores,
        sum(_eager(step, node) for node in step.backward) + 4 * 4 * step.scores,
        step.optimizer,
    )


def _eager(step: Step, node: Node) -> int:
    if _is_view(node):
        return 0
    moved = step.sizes((*node.operands, *node.outputs), index=8)
    if _is_random(node):
        moved += node.output.type.elements * step.batch
    if _has_bias(node):
        moved += 2 * step.size(node.output)
    if len(node.outputs) > 1 and _is_product_gradient(node):
        moved += step.size(node.inputs[-1])
    return moved


def inductor(step: Step) -> Bytes:
    """PyTorch with torch.compile."""
    kernels = _Kernels(step)
    forward, backward = kernels.part(step.forward), kernels.part(step.backward)
    scores = step.compute * step.scores
    return Bytes(forward + scores, backward + 2 * scores, step.optimizer)


@dataclass
class _Kernels:
    """behind: of values that are not stored the stored ones they are worked out of. read: what the
    pointwise kernels of this part have read, by the value they store.
    """

    step: Step
    behind: dict[Value, frozenset[Value]] = field(default_factory=dict)
    read: dict[Value, frozenset[Value]] = field(default_factory=dict)

    def part(self, nodes: Iterable[Node]) -> int:
        """Bytes of the forward or the backward part."""
        self.read.clear()
        return sum(self.kernel(node) for node in nodes)

    def __post_init__(self) -> None:
        nodes = (*self.step.forward, *self.step.backward)
        self.users: dict[Value, list[Node]] = {}
        for node in nodes:
            for value in dict.fromkeys(node.operands):
                self.users.setdefault(value, []).append(node)
        graph = self.step.graph
        self.results = {o.value for o in graph.outputs} | {g for _, g in graph.gradients}

    def of(self, values: Iterable[Value]) -> frozenset[Value]:
        return frozenset().union(*(self.behind.get(v, frozenset({v})) for v in values))

    def kernel(self, node: Node) -> int:
        """Bytes that are moved for the sake of the node."""
        sources = self.of(node.operands)
        if _is_view(node):
            self.behind[node.output] = frozenset(_share(node, source) for source in sources)
            return 0
        if isinstance(node.op, RowReduction):
            along = [{s, *self.read[s]} for s in sources if s in self.read]
            return min(self.step.sizes(sources - there) for there in [set(), *along])
        if _is_pointwise(node):
            return self.pointwise(node.output, sources)
        if _is_side_by_side(node):
            return 2 * self.step.sizes(v for v in node.inputs if v not in self.read)
        moved = self.step.sizes((*sources, *node.outputs))
        if _has_bias(node):
            moved += self.pointwise(node.output, frozenset({node.output}))
        return moved

    def pointwise(self, value: Value, sources: frozenset[Value]) -> int:
        """Bytes to store the value, if it is stored."""
        readers = self.users.get(value, [])
        large = [s for s in sources if s.type.batched]
        if not (
            value in self.results
            or any(not _is_fusible(reader) for reader in readers)
            or (len(readers) > 1 and len(large) > MOST_READS)
        ):
            self.behind[value] = sources
            return 0
        self.read[value] = sources
        return self.step.sizes(sources) + self.step.size(value)


def _share(node: Node, source: Value) -> Value:
    """What a reader of the view ``node`` reads of a tensor that its input is worked out of."""
    if node.output.type.elements == node.inputs[0].type.elements or not source.type.batched:
        return source
    return Value(f"{source.name}_of_{node.output.name}", node.output.type)


def _is_pointwise(node: Node) -> bool:
    return node.op.expression(*(value.name for value in node.operands)) is not None


def _is_fusible(node: Node) -> bool:
    return _is_pointwise(node) or isinstance(node.op, RowReduction) or _is_view(node)


def _is_view(node: Node) -> bool:
    """The output is the input's memory: in our own graph, or as an index expression in torch."""
    if node.op.is_view(node.inputs[0].type):
        return True
    texts = node.op.reference(*(f"t{i}" for i in range(len(node.operands))))
    return len(texts) == 1 and re.fullmatch(r"t0\[[^\[\]]*\]", texts[0]) is not None


def _is_random(node: Node) -> bool:
    return "seed" in (node.op.expression(*(value.name for value in node.operands)) or "")


def _has_bias(node: Node) -> bool:
    """Filters, and a number for each: the product's kernel does not add those."""
    ranks = [len(value.type.shape) for value in node.parameters]
    return any(rank > 2 for rank in ranks) and 1 in ranks


def _is_product_gradient(node: Node) -> bool:
    """It makes the gradients of weights and of a bias beside them."""
    ranks = [len(value.type.shape) for value in node.outputs if not value.type.batched]
    return any(rank > 1 for rank in ranks) and 1 in ranks


def _is_side_by_side(node: Node) -> bool:
    together = sum(value.type.elements for value in node.inputs)
    return len(node.inputs) > 1 and together == node.output.type.elements
