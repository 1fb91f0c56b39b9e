"""Convolutions of one input -> those whose outputs pay as channels of one tensor, and their order.

Behind each stands an activation, the same one, which stays in the epilogue; what reads the maps
finds them in channels of a wider tensor. A convolution of the family saves a pass over the input.
It pays nothing where all readers take slices. A CONCAT, whose branches lie in its own output, has
to copy, unless the family's last map is its first branch: then one tensor holds both,

    [ family ........ | last ]
                      [ first branch | other branches ]   = the CONCAT

Assumes a differentiated graph or one for inference. Looks only; `merge_siblings` rewrites.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convdsl.ir.graph import Graph, Node, Value
from convdsl.ops._bits import Bits
from convdsl.ops._pointwise import Pointwise
from convdsl.ops.concat import Concat
from convdsl.passes.place_slices import is_aligned, takes_slices


@dataclass(frozen=True, eq=False)
class Output:
    """A convolution with the activation behind it, bits of that, and CONCATs that read it."""

    conv: Node
    activation: Node
    bits: tuple[Node, ...]
    concats: tuple[Node, ...]

    @property
    def cost(self) -> int:
        """Elements that CONCATs would read and write."""
        return 2 * len(self.concats) * self.activation.output.type.elements


@dataclass(frozen=True)
class Family:
    """Outputs in the order of their channels; ``beside``: a CONCAT that goes on with the last."""

    outputs: tuple[Output, ...]
    beside: Node | None


class SiblingOutputs:
    """What a graph does with the outputs of its convolutions."""

    def __init__(self, graph: Graph) -> None:
        self.users: Mapping[Value, list[Node]] = graph.users()
        self.results = graph.results()
        self.forward = {id(node) for node in graph.nodes}

    def families(self, convs: Iterable[Node]) -> list[Family]:
        """Of convolutions of one input; those in no family are better as they are."""
        by_activation: dict[Pointwise, list[Output]] = {}
        for conv in convs:
            if (output := self._output(conv)) is not None:
                assert isinstance(output.activation.op, Pointwise)
                by_activation.setdefault(output.activation.op, []).append(output)
        found = (self._family(outputs) for outputs in by_activation.values())
        return [family for family in found if family is not None]

    def _output(self, conv: Node) -> Output | None:
        """None where the epilogue would lose more than an activation, or a slice is no use."""
        y = conv.output
        readers = self.users.get(y, [])
        behind = [node for node in readers if id(node) in self.forward]
        if len(behind) != 1 or not self._is_activation(behind[0]):
            return None
        (activation,) = behind
        z = activation.output
        users = self.users.get(z, [])
        if not self.results.isdisjoint((y, z)) or any(map(self._is_fused, users)):
            return None
        bits = tuple(node for node in users if isinstance(node.op, Bits))
        others = [(node, y) for node in readers] + [(node, z) for node in users]
        if not all(takes_slices(n, v) for n, v in others if n is not activation and n not in bits):
            return None
        concats = tuple(node for node in users if isinstance(node.op, Concat))
        return Output(conv, activation, bits, concats)

    def _is_activation(self, node: Node) -> bool:
        return isinstance(node.op, Pointwise) and len(node.operands) == 1

    def _is_fused(self, node: Node) -> bool:
        """An epilogue that stores the map in a tensor of its own would take the node too."""
        if id(node) not in self.forward or isinstance(node.op, Bits):
            return False
        pointwise = node.op.expression(*(value.name for value in node.operands)) is not None
        return pointwise or node.op.pool_window is not None

    def _family(self, outputs: Sequence[Output]) -> Family | None:
        x = outputs[0].conv.inputs[0].type
        last = max(
            (output for output in outputs if self._goes_on(output)),
            key=lambda output: output.cost,
            default=None,
        )
        paying = [o for o in outputs if o is not last and o.cost < x.elements]
        chosen = (*paying, last) if last else tuple(paying)
        costs = sum(output.cost for output in paying)
        if len(chosen) < 2 or costs >= (len(chosen) - 1) * x.elements:
            return None
        return Family(chosen, last.concats[0] if last else None)

    def _goes_on(self, output: Output) -> bool:
        """Its map begins the one CONCAT that reads it, which may lie in a wider tensor itself."""
        if len(output.concats) != 1:
            return False
        (concat,) = output.concats
        z, y = output.activation.output, concat.output
        if concat.inputs[0] != z or z in concat.inputs[1:] or y in self.results:
            return False
        readers = self.users.get(y, [])
        return is_aligned(y.type.channels) and all(
            takes_slices(node, y) and not isinstance(node.op, Concat) for node in readers
        )
