"""PAD: a constant border around a map or sequence."""

from typing import Any

from convdsl.ir.arguments import Pair, field, number, padding
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import op
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of, two_for_one
from convdsl.ops._copy_window import CopyWindow, copy_window

#: one number, (height, width) or (start, end), or (start, end) per axis
Border = int | Pair | tuple[Pair, Pair]


def _border(value: Any) -> Border:
    """What `padding` takes, kept as written: what a pair means depends on the input's axes."""
    padding()(value)
    kept: Border = value
    return kept


@op("PAD")
class Pad(Spatial):
    """The input with P places of a constant value added at every edge: W2 = W1 + 2P."""

    pad: Border = field(
        letter="P",
        convert=_border,
        doc="places to add: a number, HxW or ((top, bottom), (left, right)); around a sequence a "
        "number or (start, end)",
    )
    value: float = field(0.0, convert=number(), doc="what the new places hold")
    has_epilogue = True
    aliases = ("ZEROPAD", "ZEROPADDING", "CONSTANTPAD")
    examples = (
        ("3@4x5", "PAD(1)"),
        ("2@3x4", "PAD(0x2, value=-1.5)"),
        ("130@2x2", "PAD(((1, 0), (0, 2)))"),
        ("2@3x3", "PAD(0)"),
        ("3@6", "PAD(2)"),
        ("3@6", "PAD((2, 0), value=0.5)"),
    )

    def sides(self, axes: int) -> tuple[Pair, ...]:
        """(start, end) per axis. Raises ShapeError E204."""
        if isinstance(self.pad, int):
            return ((self.pad, self.pad),) * axes
        first, second = self.pad
        if isinstance(first, int) and isinstance(second, int):
            return ((first, second),) if axes == 1 else ((first, first), (second, second))
        if axes == 1:
            raise two_for_one("pad", "P", "write one number or (start, end)")
        return tuple(side if isinstance(side, tuple) else (side, side) for side in self.pad)

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        sides = self.sides(axes_of(x))
        sizes = (start + size + end for size, (start, end) in zip(x.spatial, sides, strict=True))
        return x.with_shape(x.channels, *sizes)

    def reference(self, *operands: str) -> tuple[str, ...]:
        # torch wants the last axis first
        sides = tuple(side for axis in reversed(self.sides(self.axes)) for side in axis)
        return (f"F.pad({operands[0]}, {sides}, value={self.value})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        starts = tuple(-start for start, _ in self.sides(len(x.type.spatial)))
        return copy_window(x, tail.output, starts, self.value)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        starts = tuple(start for start, _ in self.sides(len(x.type.spatial)))
        (dx,) = build.add(CopyWindow(starts, x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}
