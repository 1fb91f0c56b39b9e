"""GAP: global average pooling, the mean of every channel over the whole map."""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Schedule, Tail
from convdsl.ir.op import Layer, Op, ShapeError, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._pooling import mean_launch


@op("GAP")
class GlobalAvgPool(Layer):
    """y[c] = mean of x[c] over the map, so a vector of C (Lin, Chen and Yan, 2013)."""

    has_epilogue = True
    examples = (("6@5x7", "GAP"), ("130@1x1", "GAP"))

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        if not x.is_map:
            raise ShapeError(
                "E214",
                "needs a map of height x width x channels, got {x}",
                help="leave it out: there is nothing to average over",
                x=x,
            )
        return x.with_shape(x.channels)

    def window(self, *inputs: TensorType) -> Window:
        return Window(everything=True)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.mean((2, 3))",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        return _launch("average_pool", {"x_ptr": x, "y_ptr": tail.output}, x.type)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(GlobalAvgPoolGrad(x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class GlobalAvgPoolGrad(Op):
    """dx[c, h, w] = dy[c] / (H*W)."""

    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "globalavgpool_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        height, width = self.x.spatial
        spread = f"[:, :, None, None].expand(-1, -1, {height}, {width})"
        return (f"({operands[0]} / {self.x.pixels}){spread}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy = node.inputs[0]
        return _launch("average_pool_gradient", {"dy_ptr": dy, "dx_ptr": tail.output}, self.x)


def _launch(function: str, tensors: Mapping[str, Argument], x: TensorType) -> Schedule:
    """Average pooling with the one window that is the map."""
    size = (x.height, x.width)
    window = Window(size, size, ((0, 0), (0, 0)), (1, 1))
    return mean_launch(function, tensors, x, x.with_shape(x.channels, 1, 1), window, True)
