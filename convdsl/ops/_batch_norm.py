"""What batch normalisation and its gradient are made of.

    mean, rstd, scale = statistics(x);         y = (x - mean) * scale + bias
    dweight, dbias = sums over (dy, x);        dx = scale * dy + slope * (x - mean) + offset

The reductions go over all rows of x (a row of channels per pixel) and begin in the kernel that
makes x or dy where that can be; the rest is pointwise with numbers per channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Band, Launch, Nest, Schedule, Size, Stride, Tail
from convdsl.ir.op import Op
from convdsl.ir.reduction import RowReduction
from convdsl.ir.types import DType, TensorType
from convdsl.ops._pointwise import rows_schedule
from convdsl.ops._rows import tile
from convdsl.ops._tiles import TYPICAL_BATCH, power_of_two, splits

#: bands, and channels, of one step of the kernels that put together what bands have
STEP, COLS = 64, 32
#: most stretches that bands are put together in at once
MOST_STRETCHES = 64


def channels_of(x: TensorType) -> TensorType:
    """A float32 number for each channel of ``x``."""
    return TensorType((x.channels,), DType.FLOAT32, batched=False)


def smallest_batch(x: TensorType) -> int:
    """Samples that make more than one number per channel."""
    return 2 if x.pixels == 1 else 1


def statistics_text(
    x: str, weight: str, running_mean: str, running_var: str, momentum: float, eps: float
) -> tuple[str, ...]:
    """torch text of (mean, rstd, scale, running mean and variance after the step)."""
    axes = f"[a for a in range({x}.dim()) if a != 1]"
    mean, var = f"{x}.mean({axes})", f"{x}.var({axes}, correction=0)"
    unbiased = f"{x}.var({axes}, correction=1)"
    rstd = f"(({var} if training else {running_var}) + {eps}).rsqrt()"
    moved = [
        f"({old} + {momentum} * ({new} - {old}) if training else {old})"
        for old, new in ((running_mean, mean), (running_var, unbiased))
    ]
    return f"({mean} if training else {running_mean})", rstd, f"{rstd} * {weight}", *moved


@dataclass(frozen=True)
class BatchStatistics(RowReduction):
    """(mean, rstd, rstd * weight, new running mean, new running variance) of x.

    Operands (x, weight, running mean, running variance); see `convdsl.ops.bn`.
    """

    momentum: float
    eps: float

    numbers = 2
    in_order = True

    @property
    def updates(self) -> Mapping[int, int]:
        return {1: 3, 2: 4}

    @property
    def title(self) -> str:
        return "statistics"

    @property
    def helpers(self) -> tuple[Nest, ...]:
        names = ("column_sum", "column_mean", "column_squares")
        return tuple(Nest("batch_norm", name) for name in names)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (channels_of(operands[0]),) * 5

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, weight, mean, var = operands
        return statistics_text(x, weight, mean, var, self.momentum, self.eps)

    def smallest_batch(self, *inputs: TensorType) -> int:
        return smallest_batch(inputs[0])

    def of_band(self, *operands: str) -> tuple[str, ...]:
        return f"column_mean({operands[0]}, mask)", f"column_squares({operands[0]}, mask)"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        stretches = _Stretches.over(node.inputs[0].type)
        partial = stretches.partial(node)
        each = stretches.launch("statistics", {"x_ptr": node.inputs[0]}, partial)
        return Schedule((each, *self._finish(node, partial, stretches.block[0])), (partial,))

    def combine(self, node: Node, bands: Value, band: Band) -> Schedule:
        split = _stretches(band)
        partial = _partial(node, split)
        channels = node.inputs[0].type.channels
        merged = Launch(
            Nest("batch_norm", "merge_bands"),
            {
                "bands_ptr": bands,
                "partial_ptr": partial,
                "rows": Size(f"n * {band.pixels * band.phases}"),
                "channels": Size(f"{channels}"),
                "BAND": band.rows,
                "PHASES": band.phases,
                "SPLIT": split,
                "STEP": STEP,
                "COLS": COLS,
            },
            (str(-(-channels // COLS)), str(split)),
            warps=8,  # with Triton 3.6 four spill
        )
        made = self._finish(node, partial, band.rows, band.phases)
        return Schedule((merged, *made), (partial,))

    def layers(self, node: Node) -> list[tuple[Sequence[Value], Sequence[Value]]]:
        """Parameters and outputs of each of the layers side by side in the channels of x."""
        return [(node.parameters, node.outputs)]

    def _finish(self, node: Node, partial: Value, rows: int, phases: int = 1) -> list[Launch]:
        """partial is of stretches of bands of so many rows, in so many sequences."""
        made: list[Launch] = []
        first = 0
        for parameters, outputs in self.layers(node):
            bands = rows, phases
            made.append(self._merge(node.inputs[0], parameters, outputs, partial, bands, first))
            first += outputs[0].type.channels
        return made

    def _merge(
        self,
        x: Value,
        parameters: Sequence[Value],
        outputs: Sequence[Value],
        partial: Value,
        of_band: tuple[int, int],
        first: int,
    ) -> Launch:
        """One layer's statistics, whose channels in ``x`` are those from ``first`` on."""
        weight, running_mean, running_var = parameters
        mean, rstd, scale, new_mean, new_var = outputs
        channels = mean.type.channels
        rows, phases = of_band
        split, count = partial.type.shape[0], f"n * {x.type.pixels}"
        # a small batch leaves the last stretches empty, and those are not read
        bands = f"triton.cdiv(n * {x.type.pixels // phases}, {rows}) * {phases}"
        filled = f"triton.cdiv({bands}, triton.cdiv({bands}, {split}))"
        return Launch(
            Nest("batch_norm", "merge_statistics"),
            {
                "partial_ptr": partial,
                "weight_ptr": weight,
                "running_mean_ptr": running_mean,
                "running_var_ptr": running_var,
                "mean_ptr": mean,
                "rstd_ptr": rstd,
                "scale_ptr": scale,
                "new_mean_ptr": new_mean,
                "new_var_ptr": new_var,
                "rows": Size(count),
                "channels": Size(f"{channels}"),
                "first": Size(f"{first}"),
                "width": Size(f"{x.type.channels}"),
                "training": Size("training"),
                "MOMENTUM": self.momentum,
                "EPS": self.eps,
                "SPLIT": split,
                "ROWS": rows,
                "PHASES": phases,
                "COLS": COLS,
            },
            (str(-(-channels // COLS)),),
            touched={partial: f"{filled} * {2 * channels}"},
        )


@dataclass(frozen=True)
class Normalize(Op):
    """y = (x - mean) * scale + bias, from (x, mean, scale) and the bias."""

    has_epilogue = True

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, *vectors = operands
        mean, scale, bias = (_spread(v, x) for v in vectors)
        return (f"({x} - {mean}) * {scale} + {bias}",)

    def expression(self, *operands: str) -> str:
        x, mean, scale, bias = operands
        return f"({x} - {mean}) * {scale} + {bias}"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return rows_schedule(node, tail)


@dataclass(frozen=True)
class GradientSums(RowReduction):
    """(dweight, dbias, scale, slope, offset) from (dy, x, mean, rstd) and the weight."""

    reads = 4
    numbers = 2

    @property
    def title(self) -> str:
        return "sums"

    @property
    def helpers(self) -> tuple[Nest, ...]:
        return (Nest("batch_norm", "column_sum"),)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (channels_of(operands[1]),) * 5

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x, mean, rstd, weight = operands
        axes = f"[a for a in range({x}.dim()) if a != 1]"
        dw = f"({dy} * ({x} - {_spread(mean, x)}) * {_spread(rstd, x)}).sum({axes})"
        db = f"{dy}.sum({axes})"
        scale = f"{weight} * {rstd}"
        share = f"(-{scale} * float(training) / max({x}[:, :1].numel(), 1))"
        return dw, db, scale, f"{share} * {rstd} * {dw}", f"{share} * {db}"

    def of_band(self, *operands: str) -> tuple[str, ...]:
        dy, x, mean, rstd = operands
        normal = f"({x} - {mean}) * {rstd}"
        return f"column_sum({dy} * ({normal}), mask)", f"column_sum({dy}, mask)"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, x, mean, rstd = node.inputs
        stretches = _Stretches.over(x.type)
        partial = stretches.partial(node)
        tensors = {"dy_ptr": dy, "x_ptr": x, "mean_ptr": mean, "rstd_ptr": rstd}
        each = stretches.launch("gradient_sums", tensors, partial)
        return Schedule((each, _finish_gradient(node, partial)), (partial,))

    def combine(self, node: Node, bands: Value, band: Band) -> Schedule:
        split = _stretches(band)
        partial = _partial(node, split)
        columns = 2 * node.inputs[0].type.channels
        added = Launch(
            Nest("batch_norm", "sum_bands"),
            {
                "bands_ptr": bands,
                "partial_ptr": partial,
                "bands": Size(band.count),
                "columns": Size(f"{columns}"),
                "SPLIT": split,
                "STEP": STEP,
                "COLS": COLS,
            },
            (str(-(-columns // COLS)), str(split)),
        )
        return Schedule((added, _finish_gradient(node, partial)), (partial,))


def _finish_gradient(node: Node, partial: Value) -> Launch:
    (_, x, _, rstd), (weight,) = node.inputs, node.parameters
    dw, db, scale, slope, offset = node.outputs
    return Launch(
        Nest("batch_norm", "finish_gradient"),
        {
            "partial_ptr": partial,
            "rstd_ptr": rstd,
            "weight_ptr": weight,
            "dw_ptr": dw,
            "db_ptr": db,
            "scale_ptr": scale,
            "slope_ptr": slope,
            "offset_ptr": offset,
            "rows": Size(f"n * {x.type.pixels}"),
            "channels": Size(f"{x.type.channels}"),
            "training": Size("training"),
            "SPLIT": partial.type.shape[0],
            "COLS": COLS,
        },
        (str(-(-x.type.channels // COLS)),),
    )


@dataclass(frozen=True)
class NormalizeGradient(Op):
    """dx = scale * dy + slope * (x - mean) + offset, from (dy, x, mean, scale, slope, offset)."""

    has_epilogue = True

    @property
    def title(self) -> str:
        return "normalize_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[1],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x, *vectors = operands
        mean, scale, slope, offset = (_spread(v, x) for v in vectors)
        return (f"{scale} * {dy} + {slope} * ({x} - {mean}) + {offset}",)

    def expression(self, *operands: str) -> str:
        dy, x, mean, scale, slope, offset = operands
        return f"{scale} * {dy} + {slope} * ({x} - {mean}) + {offset}"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return rows_schedule(node, tail)


def _spread(vector: str, x: str) -> str:
    """torch text of a number per channel against ``x``."""
    return f"{vector}.reshape(-1, *[1] * ({x}.dim() - 2))"


def _stretches(band: Band) -> int:
    """Stretches that the bands of a typical batch are put together in: some steps in each."""
    count = band.most * TYPICAL_BATCH
    return min(MOST_STRETCHES, power_of_two(max(1, count // (2 * STEP))))


def _partial(node: Node, split: int) -> Value:
    kind = TensorType((split, 2, node.inputs[0].type.channels), DType.FLOAT32, batched=False)
    return Value(f"{node.output.name}_partial", kind)


@dataclass(frozen=True)
class _Stretches:
    """How a reduction over the rows of a stored tensor is shared out: stretches, and blocks."""

    channels: int
    rows: str
    block: tuple[int, int]
    split: int

    @classmethod
    def over(cls, x: TensorType) -> "_Stretches":
        block = tile(x.channels, elements=2048, most=64)
        columns = -(-x.channels // block[1])
        return cls(x.channels, f"n * {x.pixels}", block, splits(columns, TYPICAL_BATCH * x.pixels))

    def partial(self, node: Node) -> Value:
        return _partial(node, self.split)

    def launch(self, function: str, tensors: Mapping[str, Value], partial: Value) -> Launch:
        rows, columns = self.block
        strides = {
            f"{name.removesuffix('_ptr')}_stride": Stride(tensor, constant=False)
            for name, tensor in tensors.items()
            if tensor.type.batched
        }
        arguments: dict[str, Argument] = {
            **tensors,
            **strides,
            "partial_ptr": partial,
            "rows": Size(self.rows),
            "channels": Size(f"{self.channels}"),
            "SPLIT": self.split,
            "ROWS": rows,
            "COLS": columns,
        }
        grid = (str(-(-self.channels // columns)), str(self.split))
        return Launch(Nest("batch_norm", function), arguments, grid)
