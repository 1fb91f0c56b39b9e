"""A graph to one row of costs per layer: shapes, parameters, arithmetic, receptive field, memory.

Everything is asked of the op contract, so a new layer needs nothing here. The receptive field
follows the recursion of Dumoulin and Visin (2016): with r = 1 and j = 1 at the input, a window of
extent F, dilation D and stride S gives r' = r + (D(F - 1)) j and j' = S j on each axis; a
transposed one r' = r + floor(D(F - 1) / S) j and j' = j/S. Where branches meet the larger one
counts. Borders are not cut off, so it may exceed the input, as it may where j is no whole number.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from convdsl.ir.graph import Graph, Node, Origin, Role, Value
from convdsl.ir.group import members
from convdsl.ir.op import Layer, Window
from convdsl.ir.types import TensorType
from convdsl.ops._bits import Bits
from convdsl.passes.drop_training_outputs import nodes_at_inference


@dataclass(frozen=True, slots=True)
class Field:
    """What one output sees of the net's input, per spatial axis, in input pixels.

    size: extent, and jump: distance of two neighbouring outputs. None: all of the input.
    """

    size: tuple[int, ...] | None
    jump: tuple[Fraction, ...] = ()


ALL = Field(None)


@dataclass(frozen=True, slots=True)
class Row:
    """One layer. Counts are for one sample; bytes depend on the type and are left to callers.

    parameters: elements by name (``weight``, ``bias``), those of a shared layer included.
    shared: number of the row whose parameters these are, None for the layer's own.
    seen: receptive field of the inputs (merged), field: of the output.
    stored: elements of the output in memory, 0 for a view of the input.
    kernel: number and title of the fused kernel, None where no kernel is needed.
    training_only: only outputs that inference does not have need it.
    """

    number: int
    origin: Origin
    op: Layer
    inputs: tuple[TensorType, ...]
    output: TensorType
    window: Window | None
    parameters: tuple[tuple[str, int], ...]
    shared: int | None
    macs: int
    seen: Field
    field: Field
    stored: int
    kernel: tuple[int, str] | None
    training_only: bool = False

    @property
    def label(self) -> str:
        """The layer as written; one that the compiler put before it says so."""
        text = self.origin.text
        return text if self.op.name in text else f"{self.op.name} for {text}".removesuffix(" for ")

    @property
    def count(self) -> int:
        """Learned numbers the layer uses."""
        return sum(size for _, size in self.parameters)

    @property
    def biases(self) -> int:
        return sum(size for name, size in self.parameters if name == "bias")

    @property
    def weights(self) -> int:
        return self.count - self.biases


@dataclass(frozen=True, slots=True)
class Costs:
    """All rows of a graph with its totals. Shared parameters count once, MACs at every use.

    parameters_at_inference: those of layers that inference needs.
    """

    graph: Graph
    rows: tuple[Row, ...]
    weights: int
    biases: int
    kernels: int
    parameters_at_inference: int

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def macs(self) -> int:
        """Of a forward pass in training, which works out every output."""
        return sum(row.macs for row in self.rows)

    @property
    def macs_at_inference(self) -> int:
        return sum(row.macs for row in self.rows if not row.training_only)

    @property
    def training_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that inference does not have."""
        return tuple(output.name for output in self.graph.results_shown if output.training_only)

    @property
    def stored(self) -> int:
        """Elements of all layers' outputs, for one sample."""
        return sum(row.stored for row in self.rows)


def measure(graph: Graph, fused: Graph | None = None) -> Costs:
    """The costs of a graph as lowered; ``fused`` tells which kernel each layer becomes."""
    kernels = _kernels(fused) if fused else {}
    inference = set(nodes_at_inference(graph))
    fields = {value: _start(value.type) for value in graph.inputs}
    owner: dict[Value, int] = {}
    rows: list[Row] = []
    weights = biases = 0
    for node in graph.nodes:
        layer = node.op
        if not isinstance(layer, Layer):
            raise TypeError(f"{layer.title} is no layer; costs are measured on the lowered graph")
        types = tuple(value.type for value in node.inputs)
        window = layer.window(*types)
        seen = _merge([fields[value] for value in node.inputs])
        fields.update(dict.fromkeys(node.outputs, _advance(seen, window)))
        number = len(rows) + 1
        shared = owner.get(node.parameters[0]) if node.parameters else None
        row = Row(
            number=number,
            origin=node.origin,
            op=layer,
            inputs=types,
            output=node.output.type,
            window=window,
            parameters=_counts(layer, types, node),
            shared=shared,
            macs=layer.macs(*types),
            seen=seen,
            field=fields[node.output],
            stored=_stored(node, layer),
            kernel=kernels.get(node.output.name),
            training_only=node not in inference,
        )
        owner.update({value: owner.get(value, number) for value in node.parameters})
        if shared is None:
            weights, biases = weights + row.weights, biases + row.biases
        rows.append(row)
    used = {value for node in inference for value in node.parameters}
    kept = sum(p.value.type.elements for p in graph.learned if p.value in used)
    return Costs(graph, tuple(rows), weights, biases, len(set(kernels.values())), kept)


def _counts(layer: Layer, types: tuple[TensorType, ...], node: Node) -> tuple[tuple[str, int], ...]:
    specs = layer.parameters(*types)
    return tuple(
        (name, value.type.elements)
        for (name, spec), value in zip(specs.items(), node.parameters, strict=True)
        if spec.role is Role.LEARNED
    )


def _stored(node: Node, layer: Layer) -> int:
    if layer.is_view(node.inputs[0].type) or layer.is_identity(training=True):
        return 0
    return node.output.type.elements


def _start(kind: TensorType) -> Field:
    axes = len(kind.spatial)
    return Field((1,) * axes, (Fraction(1),) * axes)


def _merge(fields: list[Field]) -> Field:
    """The larger extent on every axis; all of the input as soon as one branch sees all."""
    first = fields[0]
    for other in fields[1:]:
        if first.size is None or other.size is None or len(first.size) != len(other.size):
            return ALL
        first = Field(
            tuple(map(max, first.size, other.size)), tuple(map(max, first.jump, other.jump))
        )
    return first


def _advance(seen: Field, window: Window | None) -> Field:
    if window is None or seen.size is None:
        return seen
    if window.everything:
        return ALL
    sizes, jumps = [], []
    for size, jump, extent, dilation, stride in zip(
        seen.size, seen.jump, window.kernel, window.dilation, window.stride, strict=True
    ):
        reach = dilation * (extent - 1)
        sizes.append(ceil(size + (reach // stride if window.transposed else reach) * jump))
        jumps.append(jump / stride if window.transposed else jump * stride)
    return Field(tuple(sizes), tuple(jumps))


def _kernels(fused: Graph) -> dict[str, tuple[int, str]]:
    """For the name of every value: number and title of the forward kernel that works it out."""
    table: dict[str, tuple[int, str]] = {}
    number = 0
    for node in fused.nodes:
        if node.op.is_view(node.inputs[0].type):
            continue
        number += 1
        inner = members(node)
        title = "+".join(part.op.title for part in inner if not isinstance(part.op, Bits))
        for part in inner:
            table.update({value.name: (number, title) for value in part.outputs})
    return table
