"""GMP: global max pooling, the largest value of every channel over the whole map or sequence."""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, Window, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._axes import axes_of
from convdsl.ops._pooling import pooling_launch


@op("GMP")
class GlobalMaxPool(Layer):
    """y[c] = max of x[c] over all places, so a vector of C (Oquab et al., 2015).

    Ties go to the first place in row order, NaN wins, as in torch's pooling.
    """

    has_epilogue = True
    aliases = ("GLOBALMAXPOOL", "GLOBALMAXPOOLING")
    examples = (("6@5x7", "GMP"), ("130@1x1", "GMP"), ("3@9", "GMP"), ("2@12x13", "GMP"))

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        axes_of(x, help="leave it out: there is nothing to take the maximum over")
        return x.with_shape(x.channels)

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(y, the winner's place in row order)."""
        y = self.shape(*operands)
        return y, TensorType(y.shape, DType.INT32, y.batched)

    def window(self, *inputs: TensorType) -> Window:
        return Window(everything=True)

    def reference(self, *operands: str) -> tuple[str, ...]:
        places = f"{operands[0]}.flatten(2)"
        pooled = f"F.max_pool1d({places}, {places}.shape[2], return_indices=True)"
        return f"{pooled}[0].squeeze(2)", f"{pooled}[1].squeeze(2).int()"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, index = node.inputs[0], node.outputs[1]
        tensors = {"x_ptr": x, "y_ptr": tail.output, "index_ptr": index}
        return _launch("max_pool", tensors, x.type)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, index = node.inputs[0], node.outputs[1]
        (dx,) = build.add(GlobalMaxPoolGradient(x.type), dy, index, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class GlobalMaxPoolGradient(Op):
    """dx from (dy, index): the winner of each channel gets its dy."""

    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "globalmaxpool_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, index = operands
        won = f"F.one_hot({index}.long(), {self.x.pixels}).bool()"
        return (f"torch.where({won}, {dy}.unsqueeze(2), 0).unflatten(2, {self.x.spatial})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, index = node.inputs
        tensors = {"dy_ptr": dy, "index_ptr": index, "dx_ptr": tail.output}
        return _launch("max_pool_gradient", tensors, self.x)


def _launch(function: str, tensors: Mapping[str, Argument], x: TensorType) -> Schedule:
    """Max pooling with the one window that is the map."""
    ones = (1,) * len(x.spatial)
    window = Window(x.spatial, ones, ((0, 0),) * len(ones), ones)
    return pooling_launch(
        Nest("pool", function), tensors, x, x.with_shape(x.channels, *ones), window
    )
