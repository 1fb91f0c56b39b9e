"""BN: batch normalisation in training, with running statistics in evaluation, and its gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from convdsl.ir.arguments import field, number
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Role, Value
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import ONES, ZEROS, Layer, Op, ParameterSpec, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._pointwise import pointwise_schedule
from convdsl.ops._reduce import total_of
from convdsl.ops._rows import block_launch, tile
from convdsl.ops._tiles import TYPICAL_BATCH, splits


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

    has_epilogue = True
    cancels_bias = True
    aliases = ("BATCHNORM", "BATCHNORMALIZATION")
    extras = ("mean", "rstd", "running_mean", "running_var")
    updates: ClassVar[Mapping[int, int]] = {2: 3, 3: 4}
    examples = (
        ("6@5x7", "BN"),
        ("130@3x2", "BN(momentum=0.3, eps=0.001)"),
        ("7", "BN"),
        ("3@9", "BN"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(y, mean and 1/sqrt(var + eps) in force, both running statistics after it)."""
        channels = TensorType((operands[0].channels,), DType.FLOAT32, batched=False)
        return self.shape(*operands), channels, channels, channels, channels

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
        return 2 if inputs[0].pixels == 1 else 1

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        channels = inputs[0].channels
        return (f"parameters = 2*C = 2*{channels} = {2 * channels:,}",)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, weight, bias, running_mean, running_var = operands
        axes = f"[a for a in range({x}.dim()) if a != 1]"
        mean, var = f"{x}.mean({axes})", f"{x}.var({axes}, correction=0)"
        unbiased = f"{x}.var({axes}, correction=1)"
        y = (
            f"F.batch_norm({x}, {running_mean}.clone(), {running_var}.clone(), {weight}, {bias},"
            f" training, {self.momentum}, {self.eps})"
        )
        moved = [
            f"({old} + {self.momentum} * ({new} - {old}) if training else {old})"
            for old, new in ((running_mean, mean), (running_var, unbiased))
        ]
        return (
            y,
            f"({mean} if training else {running_mean})",
            f"(({var} if training else {running_var}) + {self.eps}).rsqrt()",
            *moved,
        )

    def torch_text(self, *operands: str) -> str:
        x, weight, bias, *running = operands
        return (
            f"F.batch_norm({x}, {', '.join(running)}, {weight}, {bias},"
            f" training, {self.momentum}, {self.eps})"
        )

    def at_inference(self) -> "FixedNorm":
        return FixedNorm(self.eps)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, bias, running_mean, running_var) = node.inputs[0], node.parameters
        _, mean, rstd, new_mean, new_var = node.outputs
        sums = _Sums.over(x.type)
        partial = sums.partial(node.output)
        each = sums.launch("statistics", {"x_ptr": x, "partial_ptr": partial})
        merged = Launch(
            Nest("batch_norm", "merge_statistics"),
            {
                "partial_ptr": partial,
                "running_mean_ptr": running_mean,
                "running_var_ptr": running_var,
                "mean_ptr": mean,
                "rstd_ptr": rstd,
                "new_mean_ptr": new_mean,
                "new_var_ptr": new_var,
                "rows": Size(sums.rows),
                "training": Size("training"),
                "MOMENTUM": self.momentum,
                "EPS": self.eps,
                **sums.constants,
            },
            (str(sums.columns),),
        )
        tensors = {
            "x_ptr": x,
            "mean_ptr": mean,
            "rstd_ptr": rstd,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "y_ptr": tail.output,
        }
        return Schedule((each, merged, _elementwise("normalize", tensors, x.type)), (partial,))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, bias, *_) = node.inputs[0], node.parameters
        _, mean, rstd, *_ = node.outputs
        names = (f"d_{x.name}", f"d_{weight.name}", f"d_{bias.name}")
        operands = (dy, x, mean, rstd)
        made = build.add(BatchNormGradient(), *operands, parameters=(weight,), names=names)
        return dict(zip((x, weight, bias), made, strict=True))


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
        return f"{bias} + tl.rsqrt({var} + {self.eps}) * {weight} * ({x} - {mean})"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)


@dataclass(frozen=True)
class BatchNormGradient(Op):
    """(dx, dweight, dbias) from (dy, x, mean, rstd) and the weight."""

    has_epilogue = True

    @property
    def title(self) -> str:
        return "batchnorm_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        channels = TensorType((operands[1].channels,), DType.FLOAT32, batched=False)
        return operands[1], channels, channels

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x, mean, rstd, weight = operands
        axes = f"[a for a in range({x}.dim()) if a != 1]"

        def spread(vector: str) -> str:
            return f"{vector}.reshape(-1, *[1] * ({x}.dim() - 2))"

        normal = f"(({x} - {spread(mean)}) * {spread(rstd)})"
        # the two means a training step takes out of dy
        means = f"{dy}.mean({axes}, True) + {normal} * ({dy} * {normal}).mean({axes}, True)"
        dx = f"{spread(f'({weight} * {rstd})')} * ({dy} - ({means} if training else 0.0))"
        return dx, f"({dy} * {normal}).sum({axes})", f"{dy}.sum({axes})"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (dy, x, mean, rstd), (weight,) = node.inputs, node.parameters
        _, dw, db = node.outputs
        sums = _Sums.over(x.type)
        partial = sums.partial(dw)
        tensors = {"dy_ptr": dy, "x_ptr": x, "mean_ptr": mean, "rstd_ptr": rstd}
        each = sums.launch("gradient_sums", {**tensors, "partial_ptr": partial})
        total = total_of(partial, dw, db, (x.type.channels, 1, 1))
        tensors |= {"weight_ptr": weight, "dw_ptr": dw, "db_ptr": db, "dx_ptr": tail.output}
        apply = _elementwise("normalize_gradient", tensors, x.type, training=Size("training"))
        return Schedule((each, total, apply), (partial,))


@dataclass(frozen=True)
class _Sums:
    """How sums over the rows of a tensor are shared out: stretches, and blocks of channels."""

    channels: int
    rows: str
    block: tuple[int, int]
    split: int

    @classmethod
    def over(cls, x: TensorType) -> "_Sums":
        block = tile(x.channels, elements=2048, most=64)
        columns = -(-x.channels // block[1])
        return cls(x.channels, f"n * {x.pixels}", block, splits(columns, TYPICAL_BATCH * x.pixels))

    @property
    def columns(self) -> int:
        return -(-self.channels // self.block[1])

    @property
    def constants(self) -> dict[str, Argument]:
        rows, columns = self.block
        return {
            "channels": Size(f"{self.channels}"),
            "SPLIT": self.split,
            "ROWS": rows,
            "COLS": columns,
        }

    def partial(self, of: Value) -> Value:
        kind = TensorType((self.split, 2, self.channels), DType.FLOAT32, batched=False)
        return Value(f"{of.name}_partial", kind)

    def launch(self, function: str, tensors: Mapping[str, Argument]) -> Launch:
        arguments: dict[str, Argument] = {**tensors, "rows": Size(self.rows), **self.constants}
        grid = (str(self.columns), str(self.split))
        return Launch(Nest("batch_norm", function), arguments, grid)


def _elementwise(
    function: str, tensors: Mapping[str, Argument], x: TensorType, **more: Argument
) -> Launch:
    channels = Size(f"{x.channels}")
    return block_launch(Nest("batch_norm", function), x, {**tensors, "channels": channels, **more})
