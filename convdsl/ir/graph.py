"""The typed graph: values, nodes and the graph itself, all immutable.

A graph is in static single assignment form and its nodes stand in topological order. `lower`
makes the forward part; `passes.differentiate` adds the backward part; every other pass rewrites
nodes. What a node means is known only to its op, so the IR never grows with layers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from convdsl.diagnostics import Frame
from convdsl.ir.types import Notation, TensorType
from convdsl.source import Span

if TYPE_CHECKING:
    from convdsl.ir.choices import Choices
    from convdsl.ir.head import Head
    from convdsl.ir.op import Initializer, Op


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor: the name is unique in its graph and a valid Python identifier."""

    name: str
    type: TensorType

    def __hash__(self) -> int:
        # names are unique in a graph, and passes look values up by the million
        return hash(self.name)


class Role(Enum):
    """What becomes of a tensor that a layer owns."""

    LEARNED = "learned"  # by gradient descent
    STATE = "state"  # updated by the layer itself in training, as running statistics are
    CONSTANT = "constant"  # part of the program, not of the state_dict


Penalty = tuple[float, float]
Bound = tuple[float, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor the network owns. ``path`` is its state_dict key; ``value`` its place in the graph.

    ``permute`` gives the order of the axes in memory, None for that of ``type``; kernels read the
    tensor in this order and write its gradient in it.
    The loss gets penalty[0] * sum of |w| + penalty[1] * sum of w^2. bound: the greatest norm of
    the weights of one output, and the axes that number the outputs.
    """

    path: str
    value: Value
    initializer: "Initializer"
    permute: tuple[int, ...] | None = None
    role: Role = Role.LEARNED
    penalty: Penalty = (0.0, 0.0)
    bound: Bound | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a node comes from: the layer as written, its path, and how expansion got there."""

    text: str = ""
    path: str = ""
    span: Span | None = None
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One use of an op. ``parameters`` are the tensors of the network among its operands."""

    op: "Op"
    inputs: tuple[Value, ...]
    parameters: tuple[Value, ...]
    outputs: tuple[Value, ...]
    origin: Origin = field(default_factory=Origin)

    @property
    def operands(self) -> tuple[Value, ...]:
        return self.inputs + self.parameters

    @property
    def output(self) -> Value:
        return self.outputs[0]

    @property
    def updated(self) -> dict[Value, Value]:
        """Outputs that are a parameter's next value, with that parameter."""
        return {self.outputs[o]: self.parameters[p] for p, o in self.op.updates.items()}


@dataclass(frozen=True, slots=True)
class Output:
    """A result of the network; ``head`` says how a loss and a prediction are made of it.

    constants: the head's fixed numbers, which are among the graph's parameters too. penalty: not
    zero for an output nobody sees, of which the loss gets penalty[0] * sum of |y| + penalty[1] *
    sum of y^2 over the batch size.
    """

    name: str
    value: Value
    head: "Head | None" = None
    constants: tuple[Parameter, ...] = ()
    penalty: Penalty = (0.0, 0.0)

    @property
    def hidden(self) -> bool:
        """It is there for its penalty only."""
        return any(self.penalty)

    @property
    def training_only(self) -> bool:
        """It is no part of the network at inference."""
        return self.hidden or (self.head is not None and self.head.only is not None)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lies that has no tensor of its own: in ``whole``, from channel ``start`` on."""

    whole: Value
    start: int


@dataclass(frozen=True, slots=True)
class Places:
    """The values of a graph that have no tensor of their own."""

    of: Mapping[Value, Place] = field(default_factory=dict)

    def root(self, value: Value) -> Value:
        """The value whose tensor it is that ``value`` lies in, itself if it has its own."""
        while (place := self.of.get(value)) is not None:
            value = place.whole
        return value

    def start(self, value: Value) -> int:
        """The first channel of ``value`` in the tensor it lies in."""
        start = 0
        while (place := self.of.get(value)) is not None:
            start, value = start + place.start, place.whole
        return start

    def stride(self, value: Value) -> int:
        """How many elements of the tensor lie between one row of ``value`` and the next."""
        return self.root(value).type.channels


@dataclass(frozen=True, slots=True)
class Graph:
    """A network. The backward part is empty until `passes.differentiate` has run.

    cotangents: for every output the value that carries dLoss/dOutput, in the same order.
    gradients: pairs (input or parameter value, value holding its gradient). updates: pairs (value
    of a parameter of role STATE, value it has after a training step). places: see
    `passes.place_slices`. choices: what was measured on the device that it is for.
    """

    name: str
    notation: Notation
    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    backward: tuple[Node, ...] = ()
    cotangents: tuple[Value, ...] = ()
    gradients: tuple[tuple[Value, Value], ...] = ()
    updates: tuple[tuple[Value, Value], ...] = ()
    places: Places = field(default_factory=Places)
    choices: "Choices | None" = None

    @property
    def learned(self) -> tuple[Parameter, ...]:
        """The parameters that training changes by their gradients, which are what is counted."""
        return tuple(p for p in self.parameters if p.role is Role.LEARNED)

    @property
    def results_shown(self) -> tuple[Output, ...]:
        """The outputs that callers see, which come first."""
        return tuple(output for output in self.outputs if not output.hidden)

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        return self.nodes + self.backward

    @property
    def saved(self) -> tuple[Value, ...]:
        """Tensors the backward part reads from the forward part, in order of definition."""
        needed = {self.places.root(value) for node in self.backward for value in node.inputs}
        made = (*self.inputs, *(value for node in self.nodes for value in node.outputs))
        return tuple(value for value in made if value in needed)

    @property
    def toward_parameters(self) -> tuple[Node, ...]:
        """The nodes of the backward part that gradients of parameters need, in order.

        The others are there for gradients of the network's inputs.
        """
        parameters = {p.value for p in self.parameters}
        wanted = {g for v, g in self.gradients if v in parameters}
        for node in reversed(self.backward):
            if any(v in wanted for v in node.outputs):
                wanted.update(node.inputs)
        return tuple(n for n in self.backward if any(v in wanted for v in n.outputs))

    def users(self) -> dict[Value, list[Node]]:
        """For every value the nodes that read it, in order."""
        table: dict[Value, list[Node]] = {}
        for node in self.all_nodes:
            for value in dict.fromkeys(node.operands):
                table.setdefault(value, []).append(node)
        return table

    def results(self) -> set[Value]:
        """Values that leave the graph: outputs, gradients and updates."""
        leaving = {o.value for o in self.outputs} | {gradient for _, gradient in self.gradients}
        return leaving | {new for _, new in self.updates}

    def with_nodes(self, nodes: Iterable[Node], backward: Iterable[Node]) -> "Graph":
        return replace(self, nodes=tuple(nodes), backward=tuple(backward))
