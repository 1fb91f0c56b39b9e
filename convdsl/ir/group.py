"""A group: the nodes that become one kernel, as a node of its own.

The first inner node is the anchor, whose loop nest the kernel is; the others are pointwise nodes
worked out in its epilogue, and at most one max pooling at the end. Conditions on values in between
are kept as bits. Reductions over the rows of the result may begin there too; launches of their own
finish them. Passes build groups, code generation
writes their text; neither does the other's work.
"""

from dataclasses import dataclass, replace

from convdsl.ir.graph import Node, Origin, Value
from convdsl.ir.launch import Band, Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.reduction import RowReduction, bands_of
from convdsl.ir.tile import Tile
from convdsl.ir.types import DType, TensorType

#: by a prologue: two maps, and four numbers per channel
MOST_READ = 6


@dataclass(frozen=True)
class Group(Op):
    """Inner nodes in order, bits of what they make, and reductions of the last one's output.

    Each of the ``prologues`` is a chain of pointwise nodes that makes an input of the anchor as its
    kernel loads it. The group's node lists as outputs the values of ``nodes`` that are ``stored``,
    and all of bits and reductions. by_rows, tile: see `Tail`.
    """

    nodes: tuple[Node, ...]
    stored: tuple[Value, ...]
    bits: tuple[Node, ...] = ()
    reductions: tuple[Node, ...] = ()
    prologues: tuple[tuple[Node, ...], ...] = ()
    by_rows: bool = False
    tile: Tile | None = None

    @property
    def anchor(self) -> Node:
        return self.nodes[0]

    @property
    def title(self) -> str:
        before = (node for chain in self.prologues for node in chain)
        return "_".join(node.op.title for node in (*before, *self.nodes, *self.reductions))

    @property
    def members(self) -> tuple[Node, ...]:
        """All inner nodes, in an order in which they can be run."""
        before = (node for chain in self.prologues for node in chain)
        return (*before, *self.nodes, *self.bits, *self.reductions)

    def as_node(self, origin: Origin) -> Node:
        """The node of the group: its inner nodes' operands from outside, and its outputs."""
        made = {value for node in self.members for value in node.outputs}
        inputs = dict.fromkeys(v for node in self.members for v in node.inputs if v not in made)
        parameters = dict.fromkeys(v for node in self.members for v in node.parameters)
        return Node(self, tuple(inputs), tuple(parameters), self.outputs, origin)

    @property
    def pool(self) -> Node | None:
        """The max pooling that ends the group, if there is one."""
        last = self.nodes[-1]
        return last if len(self.nodes) > 1 and not _is_pointwise(last) else None

    @property
    def steps(self) -> tuple[Node, ...]:
        """The pointwise nodes of the epilogue; a pointwise anchor is its own first step."""
        first = 0 if _is_pointwise(self.anchor) else 1
        return self.nodes[first:-1] if self.pool else self.nodes[first:]

    @property
    def result(self) -> Value:
        """The value the anchor's kernel stores itself; others are stored by the epilogue."""
        return self.nodes[-1].output

    @property
    def drops_result(self) -> bool:
        """Nobody reads the result: the epilogue's reductions are all the kernel stores."""
        return self.result not in self.stored

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The outputs of the group's node."""
        beside = (*self.bits, *self.reductions)
        return (*self.stored, *(value for node in beside for value in node.outputs))

    @property
    def is_crowded(self) -> bool:
        """The epilogue reads two tensors of the result's size or more, and begins reductions."""
        sizes = [v for v in self._read if v.type.elements == self.result.type.elements]
        large = [v for v in sizes if v.type.dtype is not DType.BIT]
        return bool(self.reductions) and len(large) >= 2

    @property
    def is_by_columns(self) -> bool:
        """The epilogue pools or reduces the rows of its tile, or reads what rows have in common,
        and packs no bits, which are of neighbouring columns.
        """
        parameters = {value for node in self.nodes[1:] for value in node.parameters}
        common = {v for v in self._read | parameters if v.type.elements < self.result.type.elements}
        return not self.bits and bool(self.pool or self.reductions or common)

    @property
    def _read(self) -> set[Value]:
        """Tensors that the epilogue and its reductions read of memory, parameters apart."""
        beside = (*self.nodes[1:], *self.reductions)
        made = {value for node in self.nodes for value in node.outputs}
        return {value for node in beside for value in node.inputs} - made

    @property
    def is_laden(self) -> bool:
        """A prologue reads more tensors than the gradient of a normalisation does."""
        made = {value for chain in self.prologues for node in chain for value in node.outputs}
        reads = ({v for node in chain for v in node.operands} - made for chain in self.prologues)
        return any(len(read) > MOST_READ for read in reads)

    @property
    def band(self) -> Band | None:
        """How the kernel cuts its result into bands of rows, if it does."""
        return _band(self._of_anchor())

    @property
    def tiles_fill_bytes(self) -> bool:
        """Every tile begins at a whole eight of channels, which a byte of bits is of."""
        return all(launch.group % 8 == 0 for launch in self._of_anchor().launches)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return tuple(value.type for value in self.outputs)

    def reference(self, *operands: str) -> tuple[str, ...]:
        raise NotImplementedError("a group is run node by node")

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        """The anchor's launches, then those that finish the reductions."""
        made = self._of_anchor(tail.alone)
        launches, scratch = made.launches, made.scratch
        band = _band(made)
        used: dict[Value, str] = {}
        for reduction in self.reductions:
            assert band is not None and isinstance(reduction.op, RowReduction)
            bands = bands_of(reduction, band)
            rest = reduction.op.combine(reduction, bands, band)
            launches += rest.launches
            scratch += (bands, *rest.scratch)
            columns = reduction.op.numbers * reduction.inputs[0].type.channels
            used[bands] = f"{band.count} * {columns}"
        launches = tuple(replace(x, touched={**x.touched, **used}) for x in launches)
        return Schedule(launches, scratch)

    def _of_anchor(self, alone: bool = False) -> Schedule:
        """The anchor's launches, with the pooling, if any, handed to its kernel."""
        made = frozenset(chain[-1].output for chain in self.prologues)
        tile = None if alone else self.tile
        tail = Tail(
            self.result,
            made=made,
            alone=alone,
            by_rows=self.by_rows,
            crowded=self.is_crowded,
            laden=self.is_laden,
            packs=bool(self.bits),
            reduces=bool(self.reductions),
            by_columns=self.is_by_columns,
            tile=tile,
        )
        if self.pool is not None:
            index = self.pool.outputs[1] if self.pool.outputs[1] in self.stored else None
            tail = replace(tail, pool=self.pool.op.pool_window, index=index)
        return self.anchor.op.schedule(self.anchor, tail)


def members(node: Node) -> tuple[Node, ...]:
    """The inner nodes of a group; any other node by itself."""
    return node.op.members if isinstance(node.op, Group) else (node,)


def updated(node: Node) -> dict[Value, Value]:
    """`Node.updated` of all `members`."""
    return {new: old for member in members(node) for new, old in member.updated.items()}


def _is_pointwise(node: Node) -> bool:
    return node.op.expression(*(value.name for value in node.operands)) is not None


def _band(made: Schedule) -> Band | None:
    """Of the launch that has the epilogue; what follows it adds up what it leaves."""
    return next((launch.band for launch in reversed(made.launches) if launch.band), None)
