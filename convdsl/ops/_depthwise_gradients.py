"""The gradients of a depthwise convolution, and the launches of its loop nests."""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Band, Launch, Nest, Schedule, Size, Stride, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._conv_gradients import ConvGradInput, ConvGradWeight
from convdsl.ops._convolution import Geometry
from convdsl.ops._reduce import total_of
from convdsl.ops._rows import tile
from convdsl.ops._tiles import SHORTEST_BAND, SHORTEST_SPLIT, TYPICAL_BATCH, power_of_two

#: elements a program of the weight's gradient keeps sums of: taps * pixels * channels
SUMS = 4096
#: taps side by side: with 64, as 7x7 filters have, registers spill
MOST_TAPS = 32
#: channels side by side: a wide load of 16-bit elements for each group of eight threads
MOST_CHANNELS = 64
#: programs of the weight's gradient: each does little at a time, so a device takes many
PROGRAMS = 2048
#: taps whose sums one program keeps beside the gradient of a block
MOST_TAPS_AT_ONCE = 9
#: elements of a block of both gradients at once, of which a thread has four, and its channels
BLOCK_AT_ONCE, CHANNELS_AT_ONCE = 1024, 32
#: most stretches of pixels, and partial sums that one program adds up
MOST_SPLITS, REDUCE_ELEMENTS = 512, 8192


def launch(
    function: str,
    geometry: Geometry,
    tensors: Mapping[str, Argument],
    stored: TensorType,
    touched: Mapping[Value, str],
) -> Launch:
    """One launch of a nest of ``kernels/depthwise.py`` that makes every pixel of ``stored``."""
    rows, columns = tile(stored.channels, most=MOST_CHANNELS)
    count = f"n * {stored.pixels}"
    tiles = -(-stored.channels // columns)
    arguments = {
        **tensors,
        "rows": Size(count),
        **_constants(geometry),
        "ROWS": rows,
        "COLS": columns,
    }
    grid = (f"triton.cdiv({count}, {rows}) * {tiles}",)
    index = f"tl.program_id(0) // {tiles}"
    band = Band(rows, index, stored.pixels) if rows >= SHORTEST_BAND else None
    return Launch(Nest("depthwise", function), arguments, grid, band=band, touched=touched)


def _constants(geometry: Geometry) -> dict[str, Argument]:
    """Of all nests: those of a convolution, but the channels follow from the multiplier."""
    others = ("C", "GROUPS", "PRECISION")
    common = {k: v for k, v in geometry.constants.items() if k not in others}
    return {**common, "MULTIPLIER": geometry.group_filters}


@dataclass(frozen=True)
class DepthwiseGradInput(ConvGradInput):
    """dx from (dy, weight), each channel by itself; the weight is stored (R, S, K)."""

    @property
    def title(self) -> str:
        return "depthwise_grad_input"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, weight = node.operands
        tensors: dict[str, Argument] = {
            "dy_ptr": dy,
            "w_ptr": weight,
            "dx_ptr": tail.output,
            "DY_STRIDE": Stride(dy),
            "DX_STRIDE": Stride(tail.output),
        }
        made = launch(
            "depthwise_grad_input",
            self.geometry,
            tensors,
            self.geometry.x,
            self.geometry.touched_of_y(dy),
        )
        return Schedule((made,))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True)
class DepthwiseGradWeight(ConvGradWeight):
    """dw, and db if ``bias``, from (x, dy), each channel by itself."""

    @property
    def title(self) -> str:
        return "depthwise_grad_weight"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), (dw, *db) = node.inputs, node.outputs
        filters, taps = self.geometry.weight[0], self.geometry.taps
        columns = min(power_of_two(filters), MOST_CHANNELS)
        sums = taps + self.bias
        block = min(power_of_two(sums), MOST_TAPS)
        rows = SUMS // (columns * block)
        tiles = -(-sums // block) * -(-filters // columns)
        split = stretches(tiles, self.geometry.pixels)
        partial = Value(
            f"{dw.name}_partial", TensorType((split, filters * sums), DType.FLOAT32, False)
        )
        shares = Launch(
            Nest("depthwise", "depthwise_grad_weight"),
            {
                "x_ptr": x,
                "dy_ptr": dy,
                "partial_ptr": partial,
                "rows": Size(f"n * {self.geometry.pixels}"),
                **_constants(self.geometry),
                "X_STRIDE": Stride(x),
                "DY_STRIDE": Stride(dy),
                "BIAS": self.bias,
                "SPLIT": split,
                "TAPS": block,
                "ROWS": rows,
                "COLS": columns,
            },
            (str(tiles), str(split)),
            # filters that share a channel are loaded one by one, which takes registers
            warps=8 if self.geometry.group_filters > 1 else 4,
            touched=self.geometry.touched_of_x(x),
        )
        width = REDUCE_ELEMENTS // split
        total = total_of(partial, dw, db[0] if db else None, min(width, 64))
        return Schedule((shares, total), (partial,))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,)


def stretches(tiles: int, pixels: int) -> int:
    """Stretches to cut the pixels into: a power of two, so that they are added as one tree."""
    shortest = TYPICAL_BATCH * pixels // SHORTEST_SPLIT
    return power_of_two(min(MOST_SPLITS, max(1, shortest), -(-PROGRAMS // tiles)))


@dataclass(frozen=True)
class DepthwiseGradients(Op):
    """(dx, dw) from (x, dy, weight), where a filter of few taps sees each channel."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "depthwise_gradients"

    @property
    def is_possible(self) -> bool:
        """There are registers for it."""
        return self.geometry.taps <= MOST_TAPS_AT_ONCE and self.geometry.group_filters == 1

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        dw = TensorType(self.geometry.weight, DType.FLOAT32, batched=False)
        return self.geometry.x, dw

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy, weight = operands
        to_input = DepthwiseGradInput(self.geometry).reference(dy, weight)
        return (*to_input, *DepthwiseGradWeight(self.geometry, False).reference(x, dy))

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), (weight,), dw = node.inputs, node.parameters, node.outputs[1]
        of, channels = self.geometry.x, self.geometry.x.channels
        rows, columns = tile(channels, BLOCK_AT_ONCE, CHANNELS_AT_ONCE)
        tiles = -(-channels // columns)
        split = stretches(tiles, of.pixels)
        kind = TensorType((split, channels * self.geometry.taps), DType.FLOAT32, batched=False)
        partial = Value(f"{dw.name}_partial", kind)
        constants = _constants(self.geometry)
        del constants["MULTIPLIER"]
        both = Launch(
            Nest("depthwise", "depthwise_gradients"),
            {
                "x_ptr": x,
                "dy_ptr": dy,
                "w_ptr": weight,
                "dx_ptr": tail.output,
                "partial_ptr": partial,
                "rows": Size(f"n * {of.pixels}"),
                **constants,
                "X_STRIDE": Stride(x),
                "DY_STRIDE": Stride(dy),
                "DX_STRIDE": Stride(tail.output),
                "SPLIT": split,
                "ROWS": rows,
                "COLS": columns,
            },
            (str(tiles), str(split)),
            warps=8,
            band=Band(rows, "aux[-1]", of.pixels) if rows >= SHORTEST_BAND else None,
            touched=self.geometry.touched_of_y(dy),
        )
        total = total_of(partial, dw, None, min(REDUCE_ELEMENTS // split, 64))
        return Schedule((both, total), (partial,))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,)
