"""A learned number for every position and channel, added to a map: ``bias=position`` of CONV.

No layer of the language: a convolution with such a bias is lowered to itself without one, followed
by this, which fuses behind it like any pointwise layer.
"""

from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import ParameterSpec
from convdsl.ir.types import TensorType
from convdsl.ops._bias_gradient import BiasGradient
from convdsl.ops._pointwise import pointwise_schedule
from convdsl.ops._weights import Weighted


@dataclass(frozen=True)
class PositionBias(Weighted):
    """y = x + bias, with a bias of the shape of x (the last layer of AlphaGo, Silver et al., 2016).

    A parameter for each output, so the size of the map is fixed. ``fan_in`` is that of the layer
    before it, for its start.
    """

    fan_in: int

    name = "CONV"
    has_epilogue = True

    @property
    def title(self) -> str:
        return "position_bias"

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        channels_last = (*range(1, len(inputs[0].shape)), 0)
        return {"bias": self.bias_spec(inputs[0].shape, self.fan_in, channels_last)}

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (" + ".join(operands),)

    def expression(self, *operands: str) -> str:
        return " + ".join(operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, bias = node.operands
        (db,) = build.add(BiasGradient(per_position=True), dy, names=(f"d_{bias.name}",))
        return {x: dy, bias: db}
