"""CONCAT: tensors side by side along the channels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size, Stride, Tail
from convdsl.ir.op import Layer, Op, op
from convdsl.ir.types import DType, TensorType
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
        return _copies(node, tail, range(len(node.inputs)))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        gradients: dict[Value, Value] = {}
        for x, start in zip(node.inputs, starts(node.inputs), strict=True):
            name = f"d_{x.name}"
            (dx,) = build.add(Slice(start, x.type.channels), dy, names=(name,))
            if x in gradients:
                (dx,) = build.add(Add(), gradients[x], dx, names=(name,))
            gradients[x] = dx
        return gradients


@dataclass(frozen=True)
class Join(Op):
    """CONCAT whose branches lie in its output already, but for the ``copied`` ones by number."""

    copied: tuple[int, ...]

    @property
    def title(self) -> str:
        return Concat().title

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return Concat().infer(*operands)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return Concat().reference(*operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return _copies(node, tail, self.copied)


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


def starts(branches: Sequence[Value]) -> list[int]:
    """The first channel of each branch in their concatenation."""
    return [sum(x.type.channels for x in branches[:i]) for i in range(len(branches))]


def _copies(node: Node, tail: Tail, numbers: Iterable[int]) -> Schedule:
    """A launch for each of these branches."""
    begin = starts(node.inputs)
    return Schedule(
        tuple(
            _copy(node.inputs[i], 0, tail.output, begin[i], node.inputs[i].type.channels)
            for i in numbers
        )
    )


def _copy(x: Value, x_start: int, y: Value, y_start: int, count: int) -> Launch:
    each = 8 if x.type.dtype is DType.BIT else 1  # of bits whole bytes are copied
    part = x.type.with_shape(count // each, *x.type.spatial)
    launch = block_launch(
        Nest("copy_slice", "copy_slice"),
        part,
        {
            "x_ptr": x,
            "y_ptr": y,
            "channels": Size(f"{count // each}"),
            "x_stride": _stride(x, each),
            "x_start": Size(f"{x_start // each}"),
            "y_stride": _stride(y, each),
            "y_start": Size(f"{y_start // each}"),
        },
    )
    return replace(
        launch, touched=partly(x, each * part.elements) | partly(y, each * part.elements)
    )


def _stride(x: Value, each: int) -> Argument:
    """From row to row, in elements of which each pointer step passes ``each``."""
    return Stride(x, constant=False) if each == 1 else Size(f"{x.type.channels // each}")
