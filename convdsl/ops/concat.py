"""CONCAT: tensors side by side along the channels."""

from dataclasses import dataclass, replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import Layer, Op, op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import block_launch
from convdsl.ops._touched import partly
from convdsl.ops.add import Add, disagreement


@op("CONCAT")
class Concat(Layer):
    """All channels of the first branch, then of the second, ... (Szegedy et al., 2014)."""

    arity = 0
    aliases = ("CONCATENATE", "CAT", "MERGE")
    examples = (
        ("6@5x7", "CONCAT{ID | RELU}"),
        ("10", "CONCAT{SIGMOID | ID | RELU}"),
        ("3@4x4", "CONCAT{POOL | AVGPOOL}"),
        ("3@4x4", "CONCAT{ID | ID}"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        if len({x.spatial for x in inputs}) > 1:
            raise disagreement(
                "CONCAT branches disagree in height or width",
                inputs,
                "make the strides and paddings of the branches agree",
            )
        return inputs[0].with_shape(sum(x.channels for x in inputs), *inputs[0].spatial)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"torch.cat([{', '.join(operands)}], dim=1)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        launches, start = [], 0
        for x in node.inputs:
            launches.append(_copy(x, 0, tail.output, start, x.type.channels))
            start += x.type.channels
        return Schedule(tuple(launches))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        gradients: dict[Value, Value] = {}
        start = 0
        for x in node.inputs:
            name = f"d_{x.name}"
            (dx,) = build.add(Slice(start, x.type.channels), dy, names=(name,))
            if x in gradients:
                (dx,) = build.add(Add(), gradients[x], dx, names=(name,))
            gradients[x] = dx
            start += x.type.channels
        return gradients


@dataclass(frozen=True)
class Slice(Op):
    """``count`` channels from ``start`` on."""

    start: int
    count: int
    has_epilogue = True

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0].with_shape(self.count, *operands[0].spatial),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}[:, {self.start}:{self.start + self.count}]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return Schedule((_copy(node.inputs[0], self.start, tail.output, 0, self.count),))


def _copy(x: Value, x_start: int, y: Value, y_start: int, count: int) -> Launch:
    part = x.type.with_shape(count, *x.type.spatial)
    launch = block_launch(
        Nest("copy_slice", "copy_slice"),
        part,
        {
            "x_ptr": x,
            "y_ptr": y,
            "x_channels": Size(f"{x.type.channels}"),
            "x_start": Size(f"{x_start}"),
            "y_channels": Size(f"{y.type.channels}"),
            "y_start": Size(f"{y_start}"),
            "count": Size(f"{count}"),
        },
    )
    return replace(launch, touched=partly(x, part.elements) | partly(y, part.elements))
