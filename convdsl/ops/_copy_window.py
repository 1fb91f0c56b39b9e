"""Windows of a map or sequence copied to one of another size: CROP, PAD and their gradients."""

from dataclasses import dataclass, replace

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import block_launch, stride_of
from convdsl.ops._touched import partly
from convdsl.ops._window import as_map


@dataclass(frozen=True)
class CopyWindow(Op):
    """y[c, p] = x[c, p + start], zero outside ``x``: ``y`` is the type of the result."""

    start: tuple[int, ...]
    y: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "copy_window"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.y,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        (x,) = operands
        # negative padding cuts off; torch wants the last axis first
        sides = [
            f"{-start}, {start + size} - {x}.shape[{axis}]"
            for axis, (start, size) in enumerate(zip(self.start, self.y.spatial, strict=True), 2)
        ]
        return (f"F.pad({x}, ({', '.join(reversed(sides))}))",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return copy_window(node.inputs[0], tail.output, self.start)


def copy_window(x: Value, y: Value, start: tuple[int, ...], value: float = 0.0) -> Schedule:
    """One launch that copies ``x`` from ``start`` (per axis) on into ``y``, ``value`` outside."""
    large, small = as_map(x.type), as_map(y.type)
    top, left = (0, *start)[-2:]
    launch = block_launch(
        Nest("copy_window", "copy_window"),
        small,
        {
            "x_ptr": x,
            "y_ptr": y,
            "H": large.height,
            "W": large.width,
            "C": large.channels,
            "OH": small.height,
            "OW": small.width,
            "TOP": top,
            "LEFT": left,
            "VALUE": value,
            "X_STRIDE": stride_of(x, large.channels),
            "Y_STRIDE": stride_of(y, small.channels),
        },
    )
    return Schedule((replace(launch, touched=touched(x, y.type, start)),))


def touched(x: Value, y: TensorType, start: tuple[int, ...]) -> dict[Value, str]:
    """How much of ``x`` lies in the window."""
    inside = x.type.channels
    for size, count, first in zip(x.type.spatial, y.spatial, start, strict=True):
        inside *= max(0, min(size, first + count) - max(0, first))
    return partly(x, inside)
