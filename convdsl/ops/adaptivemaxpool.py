"""ADAPTIVEMAXPOOL: the largest of each of as many windows as the output is to have places."""

from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._adaptive_pooling import AdaptivePooling, adaptive_launch
from convdsl.ops.maxpool import MaxPool


@op("ADAPTIVEMAXPOOL")
class AdaptiveMaxPool(AdaptivePooling):
    """Maximum over windows [floor(i*W1/W2), ceil((i+1)*W1/W2)), i < W2 (He et al., 2014).

    So the output has the given size for an input of any size, as with torch's
    adaptive_max_pool2d. The first of equal values wins, and a NaN always does.
    """

    plain = MaxPool
    aliases = ("ADAPTIVEMAXPOOLING",)
    examples = (
        ("6@14x14", "ADAPTIVEMAXPOOL(4)"),
        ("3@7x8", "ADAPTIVEMAXPOOL(3x5)"),
        ("2@3x2", "ADAPTIVEMAXPOOL(5)"),
        ("130@2x3", "ADAPTIVEMAXPOOL(3x2)"),
        ("3@8x6", "ADAPTIVEMAXPOOL(4x2)"),
        ("3@5x7", "ADAPTIVEMAXPOOL(5x7)"),
        ("3@11", "ADAPTIVEMAXPOOL(4)"),
    )

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(y, the winner's place h*W + w in the input)."""
        y = self.shape(*operands)
        return y, TensorType(y.shape, DType.INT32, y.batched)

    def reference(self, *operands: str) -> tuple[str, ...]:
        call = f"F.adaptive_max_pool{self.axes}d({operands[0]}, {self.torch_size}"
        return f"{call})", f"{call}, return_indices=True)[1].int()"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (y, index) = node.inputs[0], node.outputs
        tensors = {"x_ptr": x, "y_ptr": tail.output, "index_ptr": index}
        return adaptive_launch("adaptive_max", tensors, x.type, y.type)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, index = node.inputs[0], node.outputs[1]
        (dx,) = build.add(AdaptiveMaxPoolGradient(x.type), dy, index, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class AdaptiveMaxPoolGradient(Op):
    """dx from (dy, index): every pixel gets dy of the windows it won."""

    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "adaptivemaxpool_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, index = operands
        zeros = f"{dy}.new_zeros(({dy}.shape[0], {self.x.channels}, {self.x.pixels}))"
        won = f"{zeros}.scatter_add(2, {index}.long().flatten(2), {dy}.flatten(2))"
        return (f"{won}.unflatten(2, {self.x.spatial})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, index = node.inputs
        tensors = {"dy_ptr": dy, "index_ptr": index, "dx_ptr": tail.output}
        return adaptive_launch("adaptive_max_gradient", tensors, dy.type, self.x)
