"""conv(x, v), conv(x, w) => parts of conv(x, [v; w]), for 1x1 convolutions.

Convolutions of one input that meet every pixel by itself are one product of matrices: x is read
once for all of them, and once for the gradients of their weights; the gradient to x is one product
instead of a sum. The parameters stay what they are: a launch for each puts the filters one behind
the other, and every gradient is summed into a tensor of its own. What lies between is found in
channels of wider tensors, which `place_slices` sees to.

Assumes split layers and a differentiated graph. In front of BN, statistics of all channels begin in
the one kernel. Without BN the activation stays in its epilogue where all have the same, and
`sibling_outputs` says whether that pays; gradients are merged in any case. Leaves alone those whose
channels fill no whole vectors of memory, and small networks without BN, which have fewer launches
as they are (`step_at_once`). At inference BN is in an epilogue, with four numbers per channel that
would have to be put together too: only convolutions without it are merged.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Origin, Value
from convdsl.ir.op import Op
from convdsl.ops._batch_norm import BatchStatistics, NormalizeGradient
from convdsl.ops._conv_gradients import ConvGradInput, ConvGradWeight
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry
from convdsl.ops._siblings import Part, SiblingConv, SiblingGradWeight, SiblingStatistics
from convdsl.ops._stack import Stack
from convdsl.ops.add import Add
from convdsl.ops.concat import Concat, Slice, starts
from convdsl.passes.place_slices import is_aligned
from convdsl.passes.rewrite import substitute, substitute_results
from convdsl.passes.sibling_outputs import Family, SiblingOutputs
from convdsl.passes.step_at_once import LEAST_ELEMENTS


@dataclass(frozen=True)
class _Member:
    """One of the convolutions, and what stands behind it in both parts of the graph.

    statistics, normalize: of BN, and what makes the gradient of the convolution's output there.
    to_input, to_weight: what reads that gradient.
    """

    conv: Node
    geometry: Geometry
    statistics: Node | None = None
    normalize: Node | None = None
    to_input: Node | None = None
    to_weight: Node | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same in all members."""
        found = (self.normalize, self.to_input, self.to_weight)
        bias = len(self.conv.parameters) > 1
        statistics = self.statistics and self.statistics.op
        return self.conv.inputs[0], bias, statistics, *(node is None for node in found)

    @property
    def dy(self) -> Value | None:
        """The gradient of the convolution's output, if anybody asks for it."""
        readers = (node for node in (self.to_weight, self.to_input) if node)
        return next((node.inputs[-1] for node in readers), None)


def merge_siblings(graph: Graph) -> Graph:
    """The graph with one convolution in place of every family of siblings."""
    return _Merger(graph).merged()


class _Merger:
    """One run over a graph. Takes nodes out and puts others in, all by the places they stood at."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.users, self.results = graph, graph.users(), graph.results()
        self.place = {
            id(n): i for part in (graph.nodes, graph.backward) for i, n in enumerate(part)
        }
        self.owned = {parameter.value for parameter in graph.parameters}
        self.gradients = dict(graph.gradients)
        self.made = {value: node for node in graph.all_nodes for value in node.outputs}
        taken = {v.name for n in graph.all_nodes for v in (*n.operands, *n.outputs)}
        self.build = Builder(taken | {v.name for v in (*graph.inputs, *self.owned)})
        self.dropped: set[int] = set()
        self.put: dict[int, list[Node]] = {}
        #: by the first convolution of a family: weight, output and means of all together
        self.together: dict[Value, tuple[Value, Value, Value | None]] = {}
        #: by the weights of a family, in order: all of them together
        self.weights: dict[tuple[Value, ...], Value] = {}
        #: terms of a sum that another term now holds
        self.absorbed: set[Value] = set()

    def merged(self) -> Graph:
        families: dict[tuple[object, ...], list[_Member]] = {}
        for node in self.graph.nodes:
            if (member := self.member(node)) is not None:
                families.setdefault(member.kind, []).append(member)
        found = [members for members in families.values() if self.is_family(members)]
        if not found:
            return self.graph
        outputs = SiblingOutputs(self.graph)
        for members in found:
            if members[0].statistics:
                self.forward(members)
            else:
                members = self.activated(members, outputs)
            self.backward(members)
        nodes = list(self.rewritten(self.graph.nodes))
        mapping: dict[Value, Value] = {}
        backward: list[Node] = []
        for node in self.rewritten(self.graph.backward):
            node = substitute(node, mapping)
            kept = [v for v in node.inputs if v not in self.absorbed]
            if isinstance(node.op, Add) and len(kept) < len(node.inputs):
                mapping[node.output] = kept[0] if kept else node.inputs[0]
            else:
                backward.append(node)
        return substitute_results(self.graph, mapping).with_nodes(nodes, backward)

    def rewritten(self, nodes: Iterable[Node]) -> Iterator[Node]:
        for node in nodes:
            yield from self.put.get(id(node), ())
            if id(node) not in self.dropped:
                yield node

    # ---- who is a sibling

    def member(self, conv: Node) -> _Member | None:
        """The convolution with what is behind it, if all of that can be merged."""
        if not isinstance(conv.op, Convolution) or conv.output in self.results:
            return None
        geometry = conv.op.geometry(conv.inputs[0].type)
        if not geometry.is_product or not is_aligned(geometry.y.channels):
            return None
        if self.owned.isdisjoint(conv.parameters[:1]):
            return None
        y, readers = conv.output, self.users.get(conv.output, [])
        found = [n for n in readers if isinstance(n.op, BatchStatistics)]
        if not found:
            return self.without_statistics(_Member(conv, geometry))
        # statistics that another use of the layer has moved have an order
        if len(found) != 1 or not self.owned.issuperset((*conv.parameters, *found[0].parameters)):
            return None
        member = _Member(conv, geometry, found[0])
        behind = [n for n in readers if isinstance(n.op, NormalizeGradient) and n.inputs[1] == y]
        if not behind:
            return member
        (normalize, *others) = behind
        if others or not self.may_lie(normalize.inputs[0]):
            return None
        return self.with_gradients(replace(member, normalize=normalize), normalize.output)

    def without_statistics(self, member: _Member) -> _Member | None:
        """A member with its gradients, if the graph has any."""
        x, weight = member.conv.inputs[0], member.conv.parameters[0]
        if x.type.elements < LEAST_ELEMENTS:
            return None
        if not self.graph.backward:
            return member
        to_weight = self.made.get(self.gradients.get(weight, weight))
        if to_weight is None or to_weight.inputs[0] != x:
            return None
        dy = to_weight.inputs[-1]
        found = self.with_gradients(member, dy) if self.may_lie(dy) else None
        return found if found and found.to_weight is to_weight else None

    def may_lie(self, gradient: Value) -> bool:
        """In a wider tensor: it does not already, and is no view of another."""
        maker = self.made.get(gradient)
        if maker is None or gradient in self.results or isinstance(maker.op, Slice):
            return False
        return not maker.op.is_view(maker.inputs[0].type)

    def with_gradients(self, member: _Member, dy: Value) -> _Member | None:
        """The member with the readers of ``dy``, if they are its convolution's gradients only."""
        if dy in self.results:
            return None
        to_input, to_weight = None, None
        for reader in self.users.get(dy, []):
            if type(reader.op) is ConvGradInput and to_input is None:
                to_input = reader
            elif type(reader.op) is ConvGradWeight and to_weight is None:
                to_weight = reader
            else:
                return None
        return replace(member, to_input=to_input, to_weight=to_weight)

    def is_family(self, members: Sequence[_Member]) -> bool:
        if len(members) < 2:
            return False
        gradients = [m.normalize.inputs[0] if m.normalize else m.dy for m in members]
        if any(gradients) and len(set(gradients)) < len(gradients):
            return False
        return self.can_add(members) and self.can_wait(members)

    def can_add(self, members: Sequence[_Member]) -> bool:
        """All gradients to the input are terms of one sum."""
        terms = [m.to_input.output for m in members if m.to_input]
        if not terms:
            return True
        last = self.last([m.to_input for m in members if m.to_input]).output
        sums = set(self.sums(last))
        return all(
            term == last or (term not in self.results and not sums.isdisjoint(self.sums(term)))
            for term in terms
        )

    def sums(self, term: Value) -> Iterator[Value]:
        """The sums that the term goes into, while nothing else is done with them."""
        while term not in self.results and len(readers := self.users.get(term, [])) == 1:
            (reader,) = readers
            if not isinstance(reader.op, Add) or len(reader.inputs) != 2:
                return
            term = reader.output
            yield term

    def can_wait(self, members: Sequence[_Member]) -> bool:
        """Nobody reads a gradient of a weight before the last of them is made."""
        nodes = [m.to_weight for m in members if m.to_weight]
        if not nodes:
            return True
        last = self.place[id(self.last(nodes))]
        made = (value for node in nodes for value in node.outputs)
        readers = (reader for value in made for reader in self.users.get(value, []))
        return all(self.place[id(reader)] > last for reader in readers)

    def last(self, nodes: Iterable[Node]) -> Node:
        return max(nodes, key=lambda node: self.place[id(node)])

    # ---- what they become

    def forward(self, members: Sequence[_Member]) -> None:
        """One convolution where the first stood, and statistics of all its channels."""
        first = members[0]
        convs, found = [m.conv for m in members], [m.statistics for m in members if m.statistics]
        self.begin([*convs, *found])
        weight, y = self.convolution(members)
        self.build.origin = _together(found)
        one = found[0].op
        assert isinstance(one, BatchStatistics)
        channels = tuple(m.geometry.y.channels for m in members)
        op = SiblingStatistics(one.momentum, one.eps, channels)
        owned = tuple(v for node in found for v in node.parameters)
        outputs = tuple(v for node in found for v in node.outputs)
        self.build.nodes.append(Node(op, (y,), owned, outputs, self.build.origin))
        # here, not where it is read, so that what is saved are whole tensors
        means = [m.normalize.inputs[2] for m in members if m.normalize]
        self.together[first.conv.output] = (weight, y, self.stack(means) if means else None)
        self.parts(y, convs)
        self.end(first.conv)

    def convolution(self, members: Sequence[_Member]) -> tuple[Value, Value]:
        """(the filters, the output) of all together."""
        convs = [m.conv for m in members]
        self.build.origin = _together(convs)
        parameters = zip(*(conv.parameters for conv in convs), strict=True)
        weight, *bias = [self.stack(values) for values in parameters]
        op, name = SiblingConv(_wider([m.geometry for m in members])), convs[0].output.name
        x = convs[0].inputs[0]
        (y,) = self.build.add(op, x, weight, *bias, names=(f"{name}_siblings",))
        return weight, y

    def parts(self, whole: Value, nodes: Sequence[Node]) -> None:
        """What the nodes made, as channels of ``whole``."""
        for node, start in zip(nodes, starts([n.output for n in nodes]), strict=True):
            part = Part(start, node.output.type.channels)
            self.build.nodes.append(Node(part, (whole,), (), node.outputs[:1], node.origin))

    def activated(self, members: list[_Member], outputs: SiblingOutputs) -> list[_Member]:
        """One convolution for each family with its activation. The members, in its order."""
        by_conv = {id(m.conv): m for m in members}
        families = outputs.families(m.conv for m in members)
        for family in families:
            self.activation(family, [by_conv[id(o.conv)] for o in family.outputs])
        chosen = [by_conv[id(output.conv)] for family in families for output in family.outputs]
        return [*chosen, *(m for m in members if m not in chosen)]

    def activation(self, family: Family, members: Sequence[_Member]) -> None:
        """One convolution where the first stood, and behind it what stood behind each."""
        convs, activations = [m.conv for m in members], [o.activation for o in family.outputs]
        bits = [node for output in family.outputs for node in output.bits]
        self.begin([*convs, *activations, *bits])
        weight, y = self.convolution(members)
        self.weights[tuple(conv.parameters[0] for conv in convs)] = weight
        if any(len(self.users[conv.output]) > 1 for conv in convs):  # a derivative asks for it
            self.parts(y, convs)
        self.build.origin, one = _together(activations), activations[0]
        name = f"{one.output.name}_siblings"
        (z,) = self.build.add(one.op, y, names=(name,))
        self.parts(z, activations)
        if bits:
            (packed,) = self.build.add(bits[0].op, z, names=(f"{bits[0].output.name}_siblings",))
            for output, start in zip(
                family.outputs, starts([a.output for a in activations]), strict=True
            ):
                for node in output.bits:
                    part = Part(start, node.output.type.channels)
                    self.build.nodes.append(Node(part, (packed,), (), node.outputs, node.origin))
        self.end(min(convs, key=lambda conv: self.place[id(conv)]))
        if family.beside is not None:
            self.beside(family.beside, z, activations[-1].output)

    def beside(self, concat: Node, z: Value, last: Value) -> None:
        """The CONCAT as the end of a tensor that holds all of ``z`` and goes on behind it."""
        self.begin([concat])
        self.build.origin = concat.origin
        name = f"{concat.output.name}_beside"
        (wide,) = self.build.add(Concat(), z, *concat.inputs[1:], names=(name,))
        part = Part(z.type.channels - last.type.channels, concat.output.type.channels)
        self.build.nodes.append(Node(part, (wide,), (), concat.outputs, concat.origin))
        self.end(concat)

    def backward(self, members: Sequence[_Member]) -> None:
        """The gradients of all, each where the last of them stood."""
        to_input = [m.to_input for m in members if m.to_input]
        to_weight = [m.to_weight for m in members if m.to_weight]
        if not to_input and not to_weight:
            return
        geometry = _wider([m.geometry for m in members])
        ends = [self.last(nodes) for nodes in (to_input, to_weight) if nodes]
        dy, weight = self.incoming(members, min(ends, key=lambda node: self.place[id(node)]))
        if to_input:
            self.begin(to_input)
            last = self.last(to_input)
            op: Op = ConvGradInput(geometry)
            self.add(op, (dy, weight), last.outputs, _together(to_input))
            self.absorbed |= {node.output for node in to_input} - {last.output}
            self.end(last)
        if to_weight:
            self.begin(to_weight)
            filters = tuple(m.geometry.y.channels for m in members)
            op = SiblingGradWeight(geometry, len(to_weight[0].outputs) > 1, filters)
            outputs = [
                v for made in zip(*(n.outputs for n in to_weight), strict=True) for v in made
            ]
            self.add(op, (to_weight[0].inputs[0], dy), tuple(outputs), _together(to_weight))
            self.end(self.last(to_weight))

    def incoming(self, members: Sequence[_Member], before: Node) -> tuple[Value, Value]:
        """The gradient of all outputs together, ready before that node; and the filters."""
        normalize = [m.normalize for m in members if m.normalize]
        self.begin(normalize)
        if not normalize:
            self.build.origin = _together([m.conv for m in members])
            parts = [m.dy for m in members if m.dy]
            (dy,) = self.build.add(Concat(), *parts, names=(f"{parts[0].name}_siblings",))
            filters = tuple(m.conv.parameters[0] for m in members)
            weight = self.weights.get(filters) or self.stack(filters)
        else:
            weight, y, mean = self.together[members[0].conv.output]
            self.build.origin = normalize[0].origin
            (one, _, _, *vectors) = zip(*(node.inputs for node in normalize), strict=True)
            (g,) = self.build.add(Concat(), *one, names=(f"{one[0].name}_siblings",))
            assert mean is not None
            stacks = [self.stack(values) for values in vectors]
            name = f"{normalize[0].output.name}_siblings"
            op = NormalizeGradient()
            (dy,) = self.build.add(op, g, y, mean, *stacks, names=(name,))
        self.end(before)
        return dy, weight

    def add(
        self, op: Op, inputs: tuple[Value, ...], outputs: tuple[Value, ...], origin: Origin
    ) -> None:
        """A node that makes values that are there already."""
        self.build.nodes.append(Node(op, inputs, (), outputs, origin))

    def stack(self, values: Sequence[Value]) -> Value:
        (made,) = self.build.add(Stack(), *values, names=(f"{values[0].name}_siblings",))
        return made

    def begin(self, gone: Iterable[Node]) -> None:
        """New nodes will be put in place of these."""
        self.build.nodes = []
        self.dropped |= {id(node) for node in gone}

    def end(self, before: Node) -> None:
        self.put.setdefault(id(before), []).extend(self.build.nodes)


def _wider(geometries: Sequence[Geometry]) -> Geometry:
    """All their filters on the same input."""
    one = geometries[0]
    filters = sum(geometry.weight[0] for geometry in geometries)
    y = one.y.with_shape(filters, *one.y.spatial)
    return replace(one, y=y, weight=(filters, *one.weight[1:]))


def _together(nodes: Sequence[Node]) -> Origin:
    """Where the first stands, with the texts of all."""
    texts = dict.fromkeys(node.origin.text for node in nodes)
    return replace(nodes[0].origin, text=" | ".join(texts))
