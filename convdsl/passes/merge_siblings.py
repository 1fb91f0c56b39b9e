"""conv(x, v), conv(x, w) => parts of conv(x, [v; w]), for 1x1 convolutions in front of BN.

Convolutions of one input that meet every pixel by itself are one product of matrices: x is read
once for all of them, and so it is for the gradients of their weights; the gradient to x is one
product instead of a sum. Statistics of all their channels begin in its kernel. The parameters stay
what they are: a launch a pass puts the filters one behind the other, and all gradients that are
products get theirs from one tensor. What lies between is found in channels of wider tensors, which
`place_slices` sees to.

Assumes split layers and a differentiated graph. Leaves alone convolutions without BN, whose
epilogues differ in where they store; and those whose channels fill no whole vectors of memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Node, Origin, Value
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


@dataclass(frozen=True)
class _Member:
    """One of the convolutions, and what stands behind it in both parts of the graph.

    normalize: makes the gradient of the convolution's output; None in a graph without a backward
    part, and where nobody asks for a gradient.
    """

    conv: Node
    geometry: Geometry
    statistics: Node
    normalize: Node | None = None
    to_input: Node | None = None
    to_weight: Node | None = None

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same in all members."""
        found = (self.normalize, self.to_input, self.to_weight)
        bias = len(self.conv.parameters) > 1
        return self.conv.inputs[0], bias, self.statistics.op, *(node is None for node in found)


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
        self.of_backward = {id(node) for node in graph.backward}
        self.made = {value: node for node in graph.all_nodes for value in node.outputs}
        taken = {v.name for n in graph.all_nodes for v in (*n.operands, *n.outputs)}
        self.build = Builder(taken | {v.name for v in (*graph.inputs, *self.owned)})
        self.dropped: set[int] = set()
        self.put: dict[int, list[Node]] = {}
        #: by the first convolution of a family: weight, output and means of all together
        self.together: dict[Value, tuple[Value, Value, Value | None]] = {}
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
        for members in found:
            self.forward(members)
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
        y, readers = conv.output, self.users.get(conv.output, [])
        found = [n for n in readers if isinstance(n.op, BatchStatistics)]
        # statistics that another use of the layer has moved have an order
        if len(found) != 1 or not self.owned.issuperset((*conv.parameters, *found[0].parameters)):
            return None
        member = _Member(conv, geometry, found[0])
        behind = [n for n in readers if isinstance(n.op, NormalizeGradient) and n.inputs[1] == y]
        if not behind:
            return member
        (normalize, *others) = behind
        return None if others else self.with_gradients(replace(member, normalize=normalize))

    def with_gradients(self, member: _Member) -> _Member | None:
        assert member.normalize is not None
        dy, g = member.normalize.output, member.normalize.inputs[0]
        maker = self.made.get(g)
        if maker is None or isinstance(maker.op, Slice) or dy in self.results:
            return None  # it lies in another tensor already, or may not
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
        gradients = [m.normalize.inputs[0] for m in members if m.normalize]
        if len(set(gradients)) < len(gradients):
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
        convs, found = [m.conv for m in members], [m.statistics for m in members]
        self.begin([*convs, *found])
        self.build.origin = _together(convs)
        geometry = _wider([m.geometry for m in members])
        parameters = zip(*(conv.parameters for conv in convs), strict=True)
        stacks = [self.stack(values) for values in parameters]
        name = f"{first.conv.output.name}_siblings"
        (y,) = self.build.add(SiblingConv(geometry), first.conv.inputs[0], *stacks, names=(name,))
        self.build.origin = _together(found)
        one = first.statistics.op
        assert isinstance(one, BatchStatistics)
        channels = tuple(m.geometry.y.channels for m in members)
        op = SiblingStatistics(one.momentum, one.eps, channels)
        owned = tuple(v for node in found for v in node.parameters)
        outputs = tuple(v for node in found for v in node.outputs)
        self.build.nodes.append(Node(op, (y,), owned, outputs, self.build.origin))
        # here, not where it is read, so that what is saved are whole tensors
        means = [m.normalize.inputs[2] for m in members if m.normalize]
        self.together[first.conv.output] = (stacks[0], y, self.stack(means) if means else None)
        parts = [conv.output for conv in convs]
        for conv, start in zip(convs, starts(parts), strict=True):
            part = Part(start, conv.output.type.channels)
            self.build.nodes.append(Node(part, (y,), (), conv.outputs, conv.origin))
        self.end(first.conv)

    def backward(self, members: Sequence[_Member]) -> None:
        """One gradient where the last that it is made of stood, and its products."""
        normalize = [m.normalize for m in members if m.normalize]
        weight, y, mean = self.together[members[0].conv.output]
        if mean is None:
            return
        self.begin(normalize)
        self.build.origin = normalize[0].origin
        (one, _, _, *vectors) = zip(*(node.inputs for node in normalize), strict=True)
        (g,) = self.build.add(Concat(), *one, names=(f"{one[0].name}_siblings",))
        stacks = [self.stack(values) for values in vectors]
        name = f"{normalize[0].output.name}_siblings"
        (dy,) = self.build.add(NormalizeGradient(), g, y, mean, *stacks, names=(name,))
        self.end(self.last(normalize))
        geometry = _wider([m.geometry for m in members])
        if to_input := [m.to_input for m in members if m.to_input]:
            self.begin(to_input)
            last = self.last(to_input)
            origin = _together(to_input)
            self.build.nodes.append(
                Node(ConvGradInput(geometry), (dy, weight), (), last.outputs, origin)
            )
            self.absorbed |= {node.output for node in to_input} - {last.output}
            self.end(last)
        if to_weight := [m.to_weight for m in members if m.to_weight]:
            self.begin(to_weight)
            filters = tuple(m.geometry.y.channels for m in members)
            bias = len(to_weight[0].outputs) > 1
            op = SiblingGradWeight(geometry, bias, filters)
            outputs = tuple(
                v for made in zip(*(n.outputs for n in to_weight), strict=True) for v in made
            )
            inputs = (to_weight[0].inputs[0], dy)
            self.build.nodes.append(Node(op, inputs, (), outputs, _together(to_weight)))
            self.end(self.last(to_weight))

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
