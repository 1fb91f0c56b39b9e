"""PRELU: a rectifier whose slope for negative inputs is learned."""

from dataclasses import dataclass

from convdsl.ir.arguments import field, flag, number
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Initializer, Layer, Op, ParameterSpec, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._channel_sum import channel_sum
from convdsl.ops._pointwise import pointwise_schedule


@op("PRELU")
class Prelu(Layer):
    """x where x > 0, else slope * x, the slope learned (He, Zhang, Ren and Sun, 2015)."""

    channelwise: bool = field(
        True, convert=flag, doc="whether every channel has its slope, or all have one"
    )
    init: float = field(0.25, convert=number(), doc="the slope to start from")
    has_epilogue = True
    is_activation = True
    aliases = ("PARAMETRICRELU",)
    examples = (
        ("6@5x7", "PRELU"),
        ("3@9", "PRELU(init=-0.5)"),
        ("10", "PRELU"),
        ("6@5x7", "PRELU(channelwise=false)"),
        ("10", "PRELU(channelwise=false, init=1)"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        slopes = inputs[0].channels if self.channelwise else 1
        return {"weight": ParameterSpec((slopes,), Initializer("constant_", (self.init,)))}

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        return (
            f"parameters = C = {inputs[0].channels:,}" if self.channelwise else "parameters = 1",
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"F.prelu({', '.join(operands)})",)

    def expression(self, *operands: str) -> str:
        x, slope = operands
        return f"tl.where({x} > 0.0, {x}, {x} * {slope})"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        (x,), (slope,) = node.inputs, node.parameters
        (dx,) = build.add(PreluGradInput(), dy, x, parameters=(slope,), names=(f"d_{x.name}",))
        to_slope = PreluGradSlope(slope.type.elements)
        (d_slope,) = build.add(to_slope, dy, x, names=(f"d_{slope.name}",))
        return {x: dx, slope: d_slope}


@dataclass(frozen=True)
class PreluGradInput(Op):
    """dx = dy where x > 0, else slope * dy, from (dy, x, slope)."""

    has_epilogue = True

    @property
    def title(self) -> str:
        return "prelu_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x, slope = operands
        spread = f"{slope}.view(-1, *[1] * ({x}.ndim - 2))"
        return (f"torch.where({x} > 0, {dy}, {dy} * {spread})",)

    def expression(self, *operands: str) -> str:
        dy, x, slope = operands
        return f"tl.where({x} > 0.0, {dy}, {dy} * {slope})"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)


@dataclass(frozen=True)
class PreluGradSlope(Op):
    """dslope = sum of dy * min(0, x) over batch and places, of each channel or (1) of all."""

    slopes: int
    has_epilogue = True

    @property
    def title(self) -> str:
        return "prelu_grad_slope"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (TensorType((self.slopes,), DType.FLOAT32, batched=False),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x = operands
        terms = f"torch.where({x} > 0, 0, {dy} * {x})"
        if self.slopes == 1:
            return (f"{terms}.sum().view(1)",)
        return (f"{terms}.transpose(0, 1).flatten(1).sum(1)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, x = node.inputs
        return channel_sum(dy, tail.output, x, negative=True)
