"""CROP: the middle of a map or sequence."""

from convdsl.ir.arguments import Pair, field, one_or, pair
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import ShapeError, op
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of, spread
from convdsl.ops._copy_window import CopyWindow, copy_window


@op("CROP")
class Crop(Spatial):
    """The middle HxW of the map, as U-Net cuts what it passes on (Ronneberger et al., 2015).

    Of H1 rows floor((H1 - H)/2) are left out at the start, so an odd one more at the end;
    likewise the columns.
    """

    size: int | Pair = field(convert=one_or(pair(1)), doc="size of what is kept, one number or HxW")
    has_epilogue = True
    aliases = ("CENTERCROP", "CROPPING")
    examples = (
        ("3@8x8", "CROP(4)"),
        ("2@7x6", "CROP(4x3)"),
        ("130@3x2", "CROP(2)"),
        ("2@5x5", "CROP(5)"),
        ("3@10", "CROP(5)"),
    )

    def start(self, x: TensorType) -> tuple[int, ...]:
        """The first place that is kept, per axis. Raises ShapeError E204, E212, E214."""
        kept = spread(self.size, axes_of(x), "size")
        if any(size > given for size, given in zip(kept, x.spatial, strict=True)):
            raise ShapeError(
                "E212",
                "cuts {size} out of {x}, which is smaller",
                help="crop to at most {most}, or pad first",
                argument="size",
                size="x".join(map(str, kept)),
                most="x".join(str(min(pair)) for pair in zip(kept, x.spatial, strict=True)),
                x=x,
            )
        return tuple((given - size) // 2 for size, given in zip(kept, x.spatial, strict=True))

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        self.start(x)
        return x.with_shape(x.channels, *spread(self.size, len(x.spatial), "size"))

    def reference(self, *operands: str) -> tuple[str, ...]:
        (x,) = operands
        text = x
        for axis, size in enumerate(spread(self.size, self.axes, "size"), 2):
            text += f".narrow({axis}, ({x}.shape[{axis}] - {size}) // 2, {size})"
        return (text,)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        return copy_window(x, tail.output, self.start(x.type))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        back = CopyWindow(tuple(-start for start in self.start(x.type)), x.type)
        (dx,) = build.add(back, dy, names=(f"d_{x.name}",))
        return {x: dx}
