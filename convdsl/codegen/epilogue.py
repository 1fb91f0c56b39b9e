"""The epilogue and prologue functions of a group: its pointwise steps as Triton text.

    conv -> relu  =>  after_relu = tl.where(acc <= 0.0, 0.0, acc)

and what the tile, a band of rows, has for the group's reductions. Groups of equal steps get equal
text, so that one compiled kernel serves them all.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from convdsl.codegen.writer import Writer
from convdsl.ir.broadcast import element_of, tile_of
from convdsl.ir.graph import Node, Places, Value
from convdsl.ir.group import Group
from convdsl.ir.launch import Band, Nest
from convdsl.ir.reduction import RowReduction, bands_of
from convdsl.ir.types import DType
from convdsl.ops._pointwise import Recomputed


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Body for ``(acc, offsets, column, mask, aux, seed)`` and the tensors ``aux`` holds.

    title: the name of the function. tile: what ``acc`` is of.
    """

    title: str
    body: str
    tile: Value
    aux: tuple[Value, ...]
    helpers: tuple[Nest, ...]


def epilogue(group: Group, places: Places) -> Epilogue | None:
    """None when the anchor's tile is stored as it is."""
    steps = group.steps
    stores = [v for v in group.stored if v in _chain(group)]
    if not steps and not stores and not group.bits and not group.reductions:
        return None
    pointwise = group.anchor in steps
    first = tile_of(group.anchor) if pointwise else group.anchor.output
    body = _Body(first, places)
    if not pointwise:
        body.keep(first, stores, group.bits)
    for node in steps:
        body.step(node)
        body.keep(node.output, stores, group.bits)
    result = steps[-1].output if steps else first
    name = body.names[result]
    if group.reductions:
        band = group.band
        assert band is not None
        # rounded as what the kernel reads, where it stores nothing
        body.enter(result, group.anchor.inputs[0] if group.drops_result else result, band)
        for node in group.reductions:
            body.reduce(node, band)
    body.text.line(f"return {name}")
    parts = (*steps, *group.bits, *group.reductions)
    helpers = tuple(helper for node in parts for helper in node.op.helpers)
    title = "_".join(part.op.title for part in parts) or "store"
    return Epilogue(f"{title}_epilogue", body.text.text, first, tuple(body.aux), helpers)


def prologue(chain: Sequence[Node], places: Places) -> Epilogue:
    """The same for a chain that makes an operand of the anchor: it gets the tile as loaded."""
    body = _Body(tile_of(chain[0]), places)
    for node in chain:
        body.step(node)
    body.text.line(f"return {body.names[chain[-1].output]}")
    helpers = tuple(helper for node in chain for helper in node.op.helpers)
    title = "_".join(node.op.title for node in chain)
    return Epilogue(f"{title}_prologue", body.text.text, body.tile, tuple(body.aux), helpers)


class _Body:
    """Text in the making: names of the blocks at hand, and the tensors they were read from."""

    def __init__(self, tile: Value, places: Places) -> None:
        self.text = Writer(1)
        self.tile, self.places = tile, places
        self.names = {tile: "acc"}
        self.aux: list[Value] = []

    def slot(self, value: Value) -> str:
        """``aux[i]``, a further tensor of the epilogue."""
        self.aux.append(value)
        return f"aux[{len(self.aux) - 1}]"

    def read(self, value: Value) -> str:
        """The name of an operand, loaded where it is first used."""
        if value not in self.names:
            name = self.names[value] = f"operand{len(self.aux)}"
            place = self.place(value)
            assert place is not None, f"{value.name} does not spread over the tile"
            masked = ", mask=mask, other=0.0" if "offsets" in place else ""
            slot = self.slot(value)
            if value.type.dtype is DType.BIT:
                self.text.line(f"{name} = load_bits({slot}, {place}, mask)")
            else:
                self.text.line(f"{name} = tl.load({slot} + {place}{masked}).to(tl.float32)")
        return self.names[value]

    def place(self, value: Value) -> str | None:
        """Where the elements of a tensor lie that belong to those of the tile."""
        return element_of(value.type, self.tile.type, self.places.stride(value))

    def keep(self, value: Value, stores: Collection[Value], bits: Iterable[Node]) -> None:
        """Store what is wanted of a value beside the kernel's own result: itself, bits of it."""
        name = self.names[value]
        if value in stores:
            slot = self.slot(value)
            number = f"{name}.to({slot}.dtype.element_ty)"
            self.text.line(f"tl.store({slot} + {self.place(value)}, {number}, mask=mask)")
        for node in bits:
            if node.inputs == (value,):
                condition = node.op.expression(name)
                self.text.line(f"store_bits({self.slot(node.output)}, {condition}, offsets, mask)")

    def step(self, node: Node) -> None:
        """``after_relu = ...``"""
        operands = [self.read(value) for value in node.operands]
        name = base = f"after_{node.op.title}"
        number = 1
        while name in self.names.values():
            number += 1
            name = f"{base}{number}"
        self.names[node.output] = name
        if isinstance(node.op, Recomputed):  # on lines of their own, for people to read
            dy, *rest = operands
            for op in node.op.by:
                self.text.assign(f"again_{op.title}", f"{op.expression(*rest)}")
                rest = [f"again_{op.title}"]
            self.text.assign(name, node.op.of.expression(dy, *rest))
        else:
            self.text.assign(name, f"{node.op.expression(*operands)}")

    def enter(self, result: Value, like: Value, band: Band) -> None:
        """What reductions look at: the result as it is stored, in the precision of ``like``."""
        name, self.names[result] = self.names[result], "rounded"
        slot = self.slot(like)
        self.text.line(f"rounded = {name}.to({slot}.dtype.element_ty).to(tl.float32)")
        self.text.line(f"band = ({band.index}).to(tl.int64)")

    def reduce(self, node: Node, band: Band) -> None:
        """Store the numbers per channel of this band of rows."""
        assert isinstance(node.op, RowReduction)
        operands = [self.read(value) for value in node.operands[: node.op.reads]]
        bands, channels = bands_of(node, band), self.tile.type.channels
        slot = self.slot(bands)
        self.text.line(f"place = {slot} + band * {node.op.numbers * channels} + column")
        for i, number in enumerate(node.op.of_band(*operands)):
            at = f"place + {i * channels}" if i else "place"
            self.text.call("tl.store(", [at, number, f"mask=column < {channels}"])


def _chain(group: Group) -> set[Value]:
    """Values of the tile the epilogue must store itself: all but the kernel's own result."""
    members = group.nodes[:-1] if group.pool else group.nodes
    return {node.output for node in members} - {group.result}
