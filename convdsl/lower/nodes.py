"""Layers with their inputs -> typed nodes, values and parameters of the growing graph.

Inserts the flattening layer before layers that need a vector, warns of windows that drop rows or
columns, and turns a ShapeError into a finding at the argument that caused it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from keyword import iskeyword
from math import prod

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Origin, Parameter, Penalty, Value
from convdsl.ir.op import Layer, ParameterSpec, ShapeError
from convdsl.ir.types import Notation, TensorType
from convdsl.lower.budget import Budget, exceeded
from convdsl.lower.findings import Failed, Findings
from convdsl.lower.layers import flattening
from convdsl.lower.merge import Branch, disagreement
from convdsl.lower.window import dropped
from convdsl.source import Span

#: names that expressions of ops and generated code use themselves (see `ir.op` and `ir.launch`)
RESERVED = frozenset(("torch", "triton", "tl", "F", "n", "seed", "training", "offsets"))


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a layer: its places in the text, where it comes from, and its branches.

    spans: places of its arguments by long name. shared: take parameters that exist already.
    """

    span: Span
    name_span: Span
    spans: Mapping[str, Span]
    origin: Origin
    branches: list[Branch]
    shared: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What an op makes of inputs of certain types; ``lost`` as `window.dropped` says it."""

    outputs: tuple[TensorType, ...]
    specs: dict[str, ParameterSpec]
    lost: str | None


class Nodes:
    """The graph under construction."""

    def __init__(
        self, notation: Notation, strict: bool, budget: Budget, findings: Findings
    ) -> None:
        self.notation = notation
        self.parameters: dict[str, Parameter] = {}
        #: for each running statistic the value it has after the layers so far
        self.updates: dict[Value, Value] = {}
        #: by path: values the loss has a penalty on
        self.penalised: dict[str, tuple[Value, Penalty]] = {}
        self.builder = Builder(set(RESERVED))
        self.producers: dict[Value, Node] = {}
        self._strict = strict
        self._budget = budget
        self._findings = findings
        self._known: dict[tuple[Layer, tuple[TensorType, ...]], Facts] = {}

    @property
    def parameter_count(self) -> int:
        return len(self.parameters)

    def input(self, name: str, kind: TensorType, span: Span) -> Value:
        """An input of the network. Raises Failed E304 if it is too large."""
        self._limit(kind.elements, span)
        return self.builder.value(identifier(name), kind)

    def layer(self, op: Layer, inputs: list[Value], use: Use) -> Value:
        """Add ``op``, behind the flattening layer if it needs one.

        Raises Failed with the finding if the op does not fit its inputs or is too large.
        """
        if op.flattens and not inputs[0].type.is_vector:
            inputs = [self._add(flattening(), inputs, use, f"{use.origin.path}.flatten")]
        try:
            parts = op.parts(*(value.type for value in inputs))
            for name, part in parts:
                path = f"{use.origin.path}.{name}" if name else use.origin.path
                inputs = [self._add(part, inputs, use, path)]
            return inputs[0] if parts else self._add(op, inputs, use, use.origin.path)
        except ShapeError as error:
            labels: tuple[Label, ...] = (Label(use.spans.get(error.argument or "", use.span)),)
            of_shapes = any(isinstance(v, TensorType) for v in error.values.values())
            if use.branches and of_shapes:
                labels = (Label(use.name_span), *disagreement(use.branches, self.notation))
            raise Failed(shape_problem(error, op.name, labels, self.notation)) from None

    def has_fixed_length(self, vector: Value) -> bool:
        """Whether layers alone decide its length: it comes from no input and no flattened map."""
        flatten = type(flattening())
        vectors = [vector]
        for value in vectors:  # which grows by what they are made of
            node = self.producers.get(value)
            if node is None or isinstance(node.op, flatten):
                return False
            if not (isinstance(node.op, Layer) and node.op.flattens):
                vectors += [v for v in node.inputs if v.type.is_vector and v not in vectors]
        return True

    def _add(self, op: Layer, inputs: list[Value], use: Use, path: str) -> Value:
        self._budget.layer(use.span, use.origin.frames)
        facts = self._facts(op, tuple(value.type for value in inputs))
        if facts.lost is not None:
            self._findings.add(self._inexact(facts.lost, use))
        for kind in facts.outputs:
            self._limit(kind.elements, use.span)
        for spec in facts.specs.values():
            self._limit(prod(spec.shape), use.span)
        owned = tuple(
            self._parameter(f"{path}.{name}", spec, use.shared).value
            for name, spec in facts.specs.items()
        )
        # a layer used again goes on from the statistics its first use has left
        parameters = tuple(self.updates.get(value, value) for value in owned)
        name = identifier(path)
        names = (name, *(f"{name}_{extra}" for extra in op.extras))
        outputs = tuple(map(self.builder.value, names, facts.outputs))
        if any(op.penalty):
            name = self.builder.value(f"{name}_penalty", outputs[0].type).name
            self.penalised[name] = (outputs[0], op.penalty)
        self.updates.update({owned[i]: outputs[number] for i, number in op.updates.items()})
        op = op.distinct(len(self.builder.nodes))
        node = Node(op, tuple(inputs), parameters, outputs, use.origin)
        self.builder.nodes.append(node)
        self.producers[outputs[0]] = node
        return outputs[0]

    def _facts(self, op: Layer, types: tuple[TensorType, ...]) -> Facts:
        """What the op says of inputs of these types; repeats ask the same again and again."""
        known = self._known.get((op, types))
        if known is None:
            outputs = op.infer(*types)  # first: it raises ShapeError where the others may not work
            lost = dropped(op.window(*types), types[0], self._strict)
            known = self._known[op, types] = Facts(outputs, op.parameters(*types), lost)
        return known

    def _parameter(self, path: str, spec: ParameterSpec, shared: bool) -> Parameter:
        if shared and path in self.parameters:
            return self.parameters[path]
        kind = TensorType(spec.shape, spec.dtype, batched=False)
        value = self.builder.value(identifier(path), kind)
        self.parameters[path] = Parameter(
            path, value, spec.initializer, spec.permute, spec.role, spec.penalty, spec.bound
        )
        return self.parameters[path]

    def constant(self, path: str, spec: ParameterSpec) -> Parameter:
        """A tensor at ``path`` that no layer owns, such as a head's fixed numbers."""
        return self._parameter(path, spec, shared=False)

    def _limit(self, elements: int, span: Span) -> None:
        limit = self._budget.limits.elements
        if elements > limit:
            raise Failed(exceeded("elements in one tensor", limit, span))

    def _inexact(self, lost: str, use: Use) -> Diagnostic:
        return Diagnostic(
            "E224" if self._strict else "W301",
            lost,
            (Label(use.span),),
            use.origin.frames,
            "choose F, S and P so that (W-F+2P)/S is whole, or round up where the layer can",
        )


def shape_problem(
    error: ShapeError, name: str, labels: tuple[Label, ...], notation: Notation
) -> Diagnostic:
    """The finding for a ShapeError of the layer or head ``name``, in the file's notation."""
    values = {
        key: notation.show(value) if isinstance(value, TensorType) else value
        for key, value in error.values.items()
    }
    message = error.message.format(**values)
    if name not in message:
        message = f"{name}: {message}"
    help = error.help.format(**values) if error.help else None
    return Diagnostic(error.code, message, labels, help=help)


def identifier(path: str) -> str:
    """A path as a name of a value: dots become underscores, and no keyword is left."""
    name = path.replace(".", "_")
    if iskeyword(name):
        return f"{name}_"
    return f"_{name}" if name[0].isdigit() else name
