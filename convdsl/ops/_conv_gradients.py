"""The two gradients of a convolution, over maps or sequences."""

from dataclasses import dataclass

from convdsl.ir.graph import Node
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops import _conv_launches as launches
from convdsl.ops import _rows_products as rows_products
from convdsl.ops import _stem as stem
from convdsl.ops._convolution import Geometry, torch_options, torch_padded, torch_padding


@dataclass(frozen=True)
class ConvGradInput(Op):
    """dx from (dy, weight): the full convolution of dy with the filters turned by 180 degrees."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "conv_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.geometry.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, weight = operands
        window, x = self.geometry.window, self.geometry.x
        sizes, crop = list(x.spatial), ""
        if torch_padding(window) is None:
            sizes = [size + sum(ends) for size, ends in zip(sizes, window.padding, strict=True)]
            places = [
                f"{start}:{start + size}"
                for size, (start, _) in zip(x.spatial, window.padding, strict=True)
            ]
            crop = f"[:, :, {', '.join(places)}]"
        shape = ", ".join(map(str, (f"{dy}.shape[0]", x.channels, *sizes)))
        options = torch_options(window, self.geometry.groups)
        function = f"torch.nn.grad.conv{len(sizes)}d_input"
        return (f"{function}(({shape}), {weight}, {dy}{options}){crop}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, weight = node.operands
        if tail.made:
            return Schedule((rows_products.grad_input(self.geometry, dy, weight, tail),))
        return Schedule((launches.grad_input(self.geometry, dy, weight, None, tail),))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,) if self.geometry.is_product else ()


@dataclass(frozen=True)
class ConvGradWeight(Op):
    """dw, and db if ``bias``, from (x, dy): the convolution of x with dy, and the sum of dy."""

    geometry: Geometry
    bias: bool

    @property
    def title(self) -> str:
        return "conv_grad_weight"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        shapes = (self.geometry.weight, self.geometry.weight[:1])[: 1 + self.bias]
        return tuple(TensorType(shape, DType.FLOAT32, batched=False) for shape in shapes)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy = operands
        window, weight = self.geometry.window, self.geometry.weight
        options = torch_options(window, self.geometry.groups)
        padded = torch_padded(x, window)
        function = f"torch.nn.grad.conv{len(window.kernel)}d_weight"
        dw = f"{function}({padded}, {weight}, {dy}{options})"
        return (dw, f"{dy}.transpose(0, 1).flatten(1).sum(1)")[: 1 + self.bias]

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), (dw, *dbs) = node.inputs, node.outputs
        if (padded := stem.grad_weight(self.geometry, x, dy, (dw,), dbs, tail)) is not None:
            return padded
        grad_weight = rows_products.grad_weight if tail.made else launches.grad_weight
        return grad_weight(self.geometry, x, dy, (dw,), dbs, tail)

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0, 1) if self.geometry.is_product else ()
