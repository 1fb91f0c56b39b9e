"""FLATTEN and its gradient."""

from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, op
from convdsl.ir.types import TensorType


@op("FLATTEN")
class Flatten(Layer):
    """A map as one vector of C*H*W numbers, in torch's order C, H, W; a sequence likewise."""

    aliases = ("RESHAPE",)
    examples = (("3@4x5", "FLATTEN"), ("3@7", "FLATTEN"), ("6", "FLATTEN"))

    def is_view(self, x: TensorType) -> bool:
        return _same_order(x)

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0].with_shape(inputs[0].elements)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.flatten(1)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        return _transpose(x, tail.output, x.type.pixels, x.type.channels)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(FlattenGradient(x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class FlattenGradient(Op):
    """The vector dy back in the shape of the map ``x``."""

    x: TensorType

    @property
    def title(self) -> str:
        return "flatten_gradient"

    def is_view(self, x: TensorType) -> bool:
        return _same_order(self.x)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.unflatten(1, {self.x.shape})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return _transpose(node.inputs[0], tail.output, self.x.channels, self.x.pixels)


def _same_order(x: TensorType) -> bool:
    """With one channel or one pixel, channels last and C, H, W are the same order."""
    return x.channels == 1 or x.pixels == 1


def _transpose(x: Value, y: Value, rows: int, columns: int) -> Schedule:
    """One launch that makes (columns, rows) of (rows, columns) for every sample."""
    block = 32
    tiles = -(-rows // block) * -(-columns // block)
    launch = Launch(
        Nest("transpose", "transpose"),
        {
            "x_ptr": x,
            "y_ptr": y,
            "ROWS": rows,
            "COLUMNS": columns,
            "BLOCK_M": block,
            "BLOCK_N": block,
        },
        (f"n * {tiles}",),
    )
    return Schedule((launch,))
