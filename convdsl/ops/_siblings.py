"""1x1 convolutions side by side on one input, and what is found of their filters together.

Their filters lie one behind the other in one weight, so that one product of matrices makes all
their channels. What each layer owns, running statistics and gradients of parameters, has a tensor
of its own still.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType
from convdsl.ops import _conv_launches as launches
from convdsl.ops import _rows_products as rows_products
from convdsl.ops._batch_norm import BatchStatistics
from convdsl.ops._conv_gradients import ConvGradWeight
from convdsl.ops._convolution import Geometry
from convdsl.ops.concat import Slice


@dataclass(frozen=True)
class SiblingConv(Op):
    """y from (x, weight[, bias]): a convolution whose weight is no parameter of the network."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "conv"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.geometry.y,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"F.conv{len(self.geometry.x.spatial)}d({', '.join(operands)})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, weight, *bias = node.operands
        forward = rows_products.forward if tail.made else launches.forward
        return Schedule((forward(self.geometry, x, weight, bias[0] if bias else None, tail),))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,)


@dataclass(frozen=True)
class Part(Slice):
    """Channels of a tensor that is there for several kernels: they find them in it."""

    has_epilogue = False

    @property
    def title(self) -> str:
        return "slice"


@dataclass(frozen=True)
class SiblingStatistics(BatchStatistics):
    """`BatchStatistics` of layers side by side: (x, weight, running mean, running variance, ...).

    channels: of each layer.
    """

    channels: tuple[int, ...]

    @property
    def updates(self) -> Mapping[int, int]:
        layers = range(len(self.channels))
        return {3 * i + k: 5 * i + k + 2 for i in layers for k in (1, 2)}

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return tuple(weight for weight in operands[1::3] for _ in range(5))

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, *parameters = operands
        texts: list[str] = []
        for i, (start, end) in enumerate(_ranges(self.channels)):
            own = parameters[3 * i : 3 * i + 3]
            texts += super().reference(f"{x}[:, {start}:{end}]", *own)
        return tuple(texts)

    def layers(self, node: Node) -> list[tuple[Sequence[Value], Sequence[Value]]]:
        return [
            (node.parameters[3 * i : 3 * i + 3], node.outputs[5 * i : 5 * i + 5])
            for i in range(len(self.channels))
        ]


@dataclass(frozen=True)
class SiblingGradWeight(ConvGradWeight):
    """(dw, dw, ...[, db, db, ...]) from (x, dy). filters: how many each convolution has."""

    filters: tuple[int, ...]

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        types = super().infer(*operands)
        return tuple(
            kind.with_shape(count, *kind.shape[1:]) for kind in types for count in self.filters
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        texts = super().reference(*operands)
        return tuple(
            f"{text}[{start}:{end}]" for text in texts for start, end in _ranges(self.filters)
        )

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), count = node.inputs, len(self.filters)
        grad_weight = rows_products.grad_weight if tail.made else launches.grad_weight
        return grad_weight(self.geometry, x, dy, node.outputs[:count], node.outputs[count:], tail)


def _ranges(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last channel plus one of each."""
    end = 0
    for count in counts:
        start, end = end, end + count
        yield start, end
