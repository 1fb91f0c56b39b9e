"""GAP: global average pooling, the mean of every channel over the whole map or sequence."""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Schedule, Tail
from convdsl.ir.op import Op, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of
from convdsl.ops._sum_pooling import sum_launch


@op("GAP")
class GlobalAvgPool(Spatial):
    """y[c] = mean of x[c] over all places, so a vector of C (Lin, Chen and Yan, 2013)."""

    has_epilogue = True
    aliases = ("GLOBALAVGPOOL", "GLOBALAVERAGEPOOLING")
    examples = (("6@5x7", "GAP"), ("130@1x1", "GAP"), ("3@9", "GAP"))

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        axes_of(x, help="leave it out: there is nothing to average over")
        return x.with_shape(x.channels)

    def window(self, *inputs: TensorType) -> Window:
        return Window(everything=True)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.mean({'(2, 3)' if self.axes == 2 else '2'})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors = {"x_ptr": x, "w_ptr": None, "y_ptr": tail.output}
        return _launch("sum_pool", tensors, x.type, NORM=False)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(GlobalAvgPoolGradient(x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class GlobalAvgPoolGradient(Op):
    """dx[c, h, w] = dy[c] / (H*W)."""

    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "globalavgpool_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        places = ", ".join("None" for _ in self.x.spatial)
        sizes = ", ".join(str(size) for size in self.x.spatial)
        return (f"({operands[0]} / {self.x.pixels})[:, :, {places}].expand(-1, -1, {sizes})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy = node.inputs[0]
        tensors = {"dy_ptr": dy, "w_ptr": None, "x_ptr": None, "y_ptr": None, "dx_ptr": tail.output}
        return _launch("sum_pool_gradient", tensors, self.x)


def _launch(
    function: str, tensors: Mapping[str, Argument], x: TensorType, **constants: Argument
) -> Schedule:
    """Average pooling with the one window that is the map."""
    ones = (1,) * len(x.spatial)
    window = Window(x.spatial, x.spatial, ((0, 0),) * len(ones), ones)
    small = x.with_shape(x.channels, *ones)
    return sum_launch(function, tensors, x, small, window, "map", **constants)
