"""POOL: maximum over a sliding window, with the winner's place kept for the gradient."""

from dataclasses import dataclass
from math import prod

from convdsl.ir.arguments import Pair, field, one_or, padding
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._map_gradient import MapGradient
from convdsl.ops._pooling import Pooling, pooling_launch
from convdsl.ops._window import Padding, as_map, over_a_map


@op("POOL")
class MaxPool(Pooling):
    """Maximum over windows of extent F: W2 = (W1 - F + 2P)/S + 1 (CS231n, lecture 5).

    The first of equal values wins, and a NaN always does, as in torch.
    """

    pad: int | Padding = field(
        0,
        convert=one_or(padding("same", "half", "valid")),
        letter="P",
        doc="places around the map that never win, at most F/2",
    )
    output_is_free = True
    aliases = ("MAXPOOL", "MAXPOOLING", "POOLING")
    examples = (
        ("6@6x8", "POOL"),
        ("3@7x9", "POOL(3, S=2)"),
        ("3@8x7", "POOL(3, S=2, P=1)"),
        ("2@5x8", "POOL(2, round=ceil)"),
        ("2@7x8", "POOL(3, S=2, P=same)"),
        ("2@5x5", "POOL(3, S=1, P=half)"),
        ("5@4x6", "POOL((1, 2))"),
        ("1@13x14", "POOL(12, S=1)"),
        ("3@11", "POOL(3, S=2, P=1, round=ceil)"),
        ("4@8", "POOL(3, S=2, P=same)"),
    )

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(the pooled map, the winner's place i*F + j in its window)."""
        y = self.shape(*operands)
        return y, TensorType(y.shape, self._index(len(y.spatial)), y.batched)

    def _index(self, axes: int) -> DType:
        kernel, _ = self.sizes(axes)
        return DType.INT8 if prod(kernel) <= 128 else DType.INT32

    @property
    def pool_window(self) -> Pair | None:
        if self.axes != 2 or self.round != "floor" or self.pad not in ("valid", 0, _NO_PADDING):
            return None
        kernel, stride = self.sizes(2)
        return next((k for k in _IN_A_TILE if k == kernel == stride), None)

    def reference(self, *operands: str) -> tuple[str, ...]:
        torch = self.torch
        x = torch.padded(operands[0], 'float("-inf")')
        call = f"F.max_pool{self.axes}d({x}, {torch.arguments()}, ceil_mode={torch.ceil}"
        # torch numbers the winners by their place in the map, rows of ``width``
        rows = ""
        if self.axes == 2:
            rows = (
                f"(place // width + {torch.start[0]}"
                f" - {torch.stride[0]} * torch.arange(place.shape[2], device=place.device)"
                f"[:, None]) * {torch.kernel[1]} + "
            )
        index = (
            f"(lambda place, width: ({rows}place % width + {torch.start[-1]}"
            f" - {torch.stride[-1]} * torch.arange(place.shape[-1], device=place.device))"
            f".to(torch.{self._index(self.axes).value}))"
            f"({call}, return_indices=True)[1], {x}.shape[-1])"
        )
        return f"{call})", index

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (y, index) = node.inputs[0], node.outputs
        tensors = {"x_ptr": x, "y_ptr": tail.output, "index_ptr": index}
        return pooling_launch(
            Nest("pool", "max_pool"), tensors, x.type, y.type, self.window(x.type)
        )

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        window = self.window(*inputs)
        often = prod(window.kernel) > MOST_WINDOWS * prod(window.stride)
        return () if often else (0,)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, index = node.inputs[0], node.outputs[1]
        (dx,) = build.add(MaxPoolGradient(self, x.type), dy, index, names=(f"d_{x.name}",))
        return {x: dx}


_NO_PADDING = ((0, 0), (0, 0))
#: windows that see a pixel, on average: as often is worked out what is not in memory
MOST_WINDOWS = 2.25
#: windows a matmul kernel can pool its tile over
_IN_A_TILE = ((1, 2), (2, 1), (2, 2))


@dataclass(frozen=True)
class MaxPoolGradient(MapGradient):
    """dx from (dy, index): every pixel gets dy of the windows it won."""

    of: MaxPool
    may_drop_result = True

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, small = as_map(self.x), as_map(self.of.shape(self.x))
        window = over_a_map(self.of.window(self.x))
        (top, _), (left, _) = window.padding
        kernel, step = window.kernel, window.stride
        to_map, back = ("", "") if self.x.is_map else (".unsqueeze(2)", ".squeeze(2)")
        dy, index = (f"{name}{to_map}" for name in operands)
        # the part of the padded map that the windows cover
        height = (small.height - 1) * step[0] + kernel[0]
        width = (small.width - 1) * step[1] + kernel[1]
        won = f"F.one_hot({index}.long(), {prod(kernel)}).bool()"
        spread = (
            f"torch.where({won}, {dy}.unsqueeze(-1), 0).movedim(-1, 2).flatten(3).flatten(1, 2)"
        )
        folded = f"F.fold({spread}, ({height}, {width}), {kernel}, stride={step})"
        right, bottom = x.width + left - width, x.height + top - height
        return (f"F.pad({folded}, ({-left}, {right}, {-top}, {bottom})){back}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, index = node.inputs
        tensors = {"dy_ptr": dy, "index_ptr": index, "dx_ptr": tail.output}
        window = self.of.window(self.x)
        return pooling_launch(Nest("pool", "max_pool_gradient"), tensors, self.x, dy.type, window)
