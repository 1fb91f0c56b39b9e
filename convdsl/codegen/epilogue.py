"""The epilogue function of a group: its pointwise steps as Triton text.

    conv -> relu  =>  after_relu = tl.where(acc <= 0.0, 0.0, acc)

Groups of equal steps get equal text, so that one compiled kernel serves them all.
"""

from dataclasses import dataclass

from convdsl.codegen.writer import Writer
from convdsl.ir.broadcast import element_of, tile_of
from convdsl.ir.graph import Value
from convdsl.ir.group import Group
from convdsl.ir.launch import Nest


@dataclass(frozen=True, slots=True)
class Epilogue:
    """Body for ``(acc, offsets, column, mask, aux, seed)`` and the tensors ``aux`` holds."""

    title: str
    body: str
    aux: tuple[Value, ...]
    helpers: tuple[Nest, ...]


def epilogue(group: Group) -> Epilogue | None:
    """None when the anchor's tile is stored as it is."""
    steps = group.steps
    stores = [v for v in group.stored if v in _chain(group)]
    if not steps and not stores:
        return None
    text = Writer(1)
    names: dict[Value, str] = {}
    aux: list[Value] = []

    def store(value: Value) -> None:
        if value in stores:
            slot = f"aux[{len(aux)}]"
            aux.append(value)
            text.line(
                f"tl.store({slot} + offsets, {names[value]}.to({slot}.dtype.element_ty), mask=mask)"
            )

    first = tile_of(group.anchor) if group.anchor in steps else group.anchor.output
    names[first] = "acc"
    if group.anchor not in steps:
        store(first)
    for number, node in enumerate(steps):
        operands = []
        for value in node.operands:
            if value not in names:
                names[value] = f"operand{len(aux)}"
                place = element_of(value.type, node.output.type)
                assert place is not None, f"{value.name} does not spread over the tile"
                masked = ", mask=mask, other=0.0" if "offsets" in place else ""
                text.line(
                    f"operand{len(aux)} = tl.load(aux[{len(aux)}] + {place}{masked}).to(tl.float32)"
                )
                aux.append(value)
            operands.append(names[value])
        name = f"after_{node.op.title}"
        names[node.output] = name if name not in names.values() else f"{name}{number}"
        text.assign(names[node.output], f"{node.op.expression(*operands)}")
        store(node.output)
    result = steps[-1].output if steps else first
    text.line(f"return {names[result]}")
    helpers = tuple(helper for node in steps for helper in node.op.helpers)
    return Epilogue("_".join(s.op.title for s in steps) or "store", text.text, tuple(aux), helpers)


def _chain(group: Group) -> set[Value]:
    """Values of the tile the epilogue must store itself: all but the kernel's own result."""
    members = group.nodes[:-1] if group.pool else group.nodes
    return {node.output for node in members} - {group.result}
