"""BN: batch normalisation in training, with running statistics in evaluation.

What runs are the parts in `_batch_norm`: statistics, which begin where x is made, and arithmetic on
each element, which goes wherever pointwise arithmetic goes; the same for the gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.arguments import field, number
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Role, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import ONES, ZEROS, Layer, Op, ParameterSpec, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._batch_norm import (
    BatchStatistics,
    GradientSums,
    Normalize,
    NormalizeGradient,
    channels_of,
    smallest_batch,
    statistics_text,
)
from convdsl.ops._pointwise import pointwise_schedule


@op("BN")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, per channel (Ioffe and Szegedy, 2015).

    In training mean and var are those of the batch and its pixels, var divided by n; the running
    statistics become (1 - momentum) * old + momentum * batch, with var divided by n - 1, as in
    torch. In evaluation the running statistics take their place.
    """

    momentum: float = field(
        0.1, convert=number(0.0, 1.0), doc="share of the batch in the running statistics, 0 to 1"
    )
    eps: float = field(
        1e-5, convert=number(least=1e-12), doc="added to the variance, against division by zero"
    )

    cancels_bias = True
    output_is_free = True
    aliases = ("BATCHNORM", "BATCHNORMALIZATION")
    extras = ("mean", "rstd", "scale", "running_mean", "running_var")
    examples = (
        ("6@5x7", "BN"),
        ("130@3x2", "BN(momentum=0.3, eps=0.001)"),
        ("7", "BN"),
        ("3@9", "BN"),
    )

    @property
    def updates(self) -> Mapping[int, int]:
        return {2: 4, 3: 5}

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(y, mean, rstd = 1/sqrt(var + eps), rstd * weight, both running statistics after it)."""
        return self.shape(*operands), *(channels_of(operands[0]),) * 5

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        shape = (inputs[0].channels,)
        kinds = {
            "weight": (ONES, Role.LEARNED),
            "bias": (ZEROS, Role.LEARNED),
            "running_mean": (ZEROS, Role.STATE),
            "running_var": (ONES, Role.STATE),
        }
        return {
            name: ParameterSpec(shape, start, role=role, dtype=DType.FLOAT32)
            for name, (start, role) in kinds.items()
        }

    def smallest_batch(self, *inputs: TensorType) -> int:
        return smallest_batch(inputs[0])

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        channels = inputs[0].channels
        return (f"parameters = 2*C = 2*{channels} = {2 * channels:,}",)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, weight, bias, running_mean, running_var = operands
        y = (
            f"F.batch_norm({x}, {running_mean}.clone(), {running_var}.clone(), {weight}, {bias},"
            f" training, {self.momentum}, {self.eps})"
        )
        return y, *statistics_text(x, weight, running_mean, running_var, self.momentum, self.eps)

    def torch_text(self, *operands: str) -> str:
        x, weight, bias, *running = operands
        return (
            f"F.batch_norm({x}, {', '.join(running)}, {weight}, {bias},"
            f" training, {self.momentum}, {self.eps})"
        )

    def at_inference(self) -> "FixedNorm":
        return FixedNorm(self.eps)

    def split(self, node: Node) -> tuple[Node, ...]:
        x, (weight, bias, *running) = node.inputs[0], node.parameters
        y, *statistics = node.outputs
        mean, _, scale, *_ = statistics
        find = BatchStatistics(self.momentum, self.eps)
        return (
            Node(find, (x,), (weight, *running), tuple(statistics), node.origin),
            Node(Normalize(), (x, mean, scale), (bias,), (y,), node.origin),
        )

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, bias, *_) = node.inputs[0], node.parameters
        _, mean, rstd, *_ = node.outputs
        dx_name = f"d_{x.name}"
        parts = (f"{dx_name}_{part}" for part in ("scale", "slope", "offset"))
        names = (f"d_{weight.name}", f"d_{bias.name}", *parts)
        sums = build.add(GradientSums(), dy, x, mean, rstd, parameters=(weight,), names=names)
        dw, db, *coefficients = sums
        (dx,) = build.add(NormalizeGradient(), dy, x, mean, *coefficients, names=(dx_name,))
        return {x: dx, weight: dw, bias: db}


@dataclass(frozen=True)
class FixedNorm(Op):
    """y = (x - mean) / sqrt(var + eps) * weight + bias with the running statistics."""

    eps: float
    has_epilogue = True

    @property
    def title(self) -> str:
        return "batchnorm"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, weight, bias, mean, var = operands
        return (f"F.batch_norm({x}, {mean}, {var}, {weight}, {bias}, False, 0.0, {self.eps})",)

    def expression(self, *operands: str) -> str:
        x, weight, bias, mean, var = operands
        scale = f"(tl.rsqrt({var} + {self.eps}) * {weight})"
        # all that needs no x apart, so that two numbers per channel are kept beside the tile
        return f"{x} * {scale} + ({bias} - {mean} * {scale})"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)
