"""POOL: maximum over a sliding window, with the winner's place kept for the gradient."""

from dataclasses import dataclass

from convdsl.ir.arguments import Pair, choice, field, optional, padding, pair
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Layer, Op, Window, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._pooling import pooled, pooling_launch, pooling_window, torch_padding
from convdsl.ops._window import Padding


@op("POOL")
class MaxPool(Layer):
    """Maximum over windows of extent F: W2 = (W1 - F + 2P)/S + 1 (CS231n, lecture 5)."""

    kernel: Pair = field((2, 2), convert=pair(1), letter="F", doc="extent of the window")
    stride: Pair | None = field(
        None, convert=optional(pair(1)), letter="S", doc="step of the window; the window itself"
    )
    pad: Padding = field(
        ((0, 0), (0, 0)),
        convert=padding("same", "half", "valid"),
        letter="P",
        doc="places around the map that never win, at most F/2",
    )
    round: str = field(
        "floor",
        convert=choice("floor", "ceil"),
        doc="what a size that is not whole becomes; ceil lets the last window hang over the edge",
    )
    has_epilogue = True
    examples = (
        ("6@6x8", "POOL"),
        ("3@7x9", "POOL(3, S=2)"),
        ("3@8x7", "POOL(3, S=2, P=1)"),
        ("2@5x8", "POOL(2, round=ceil)"),
        ("2@7x8", "POOL(3, S=2, P=same)"),
        ("2@5x5", "POOL(3, S=1, P=half)"),
        ("5@4x6", "POOL((1, 2))"),
        ("1@13x14", "POOL(12, S=1)"),
    )

    @property
    def step(self) -> Pair:
        """The stride in force."""
        return self.kernel if self.stride is None else self.stride

    def window(self, *inputs: TensorType) -> Window:
        return pooling_window(inputs[0], self.kernel, self.step, self.pad, self.round)

    def shape(self, *inputs: TensorType) -> TensorType:
        return pooled(inputs[0], self.window(*inputs))

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """(the pooled map, the winner's place i*F + j in its window)."""
        y = self.shape(*operands)
        index = DType.INT8 if self.kernel[0] * self.kernel[1] <= 128 else DType.INT32
        return y, TensorType(y.shape, index, y.batched)

    @property
    def pool_window(self) -> Pair | None:
        unpadded = self.pad in ("valid", ((0, 0), (0, 0)))
        apart = self.step == self.kernel and self.round == "floor"
        return self.kernel if unpadded and apart and self.kernel in _IN_A_TILE else None

    def reference(self, *operands: str) -> tuple[str, ...]:
        around = torch_padding(self.kernel, self.step, self.pad)
        x = around.before.format(x=operands[0], value='float("-inf")')
        ceil = self.round == "ceil" and self.pad != "same"
        call = f"F.max_pool2d({x}, {self.kernel}, {self.step}, {around.start}, ceil_mode={ceil}"
        dtype = "int8" if self.kernel[0] * self.kernel[1] <= 128 else "int32"
        # torch numbers the winners by their place in the map, rows of ``width``
        index = (
            f"(lambda place, width: ((place // width + {around.start[0]}"
            f" - {self.step[0]} * torch.arange(place.shape[2], device=place.device)[:, None])"
            f" * {self.kernel[1]} + place % width + {around.start[1]}"
            f" - {self.step[1]} * torch.arange(place.shape[3], device=place.device))"
            f".to(torch.{dtype}))({call}, return_indices=True)[1], {x}.shape[3])"
        )
        return f"{call})", index

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (y, index) = node.inputs[0], node.outputs
        tensors = {"x_ptr": x, "y_ptr": tail.output, "index_ptr": index}
        return pooling_launch("max_pool", tensors, x.type, y.type, self.window(x.type))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, index = node.inputs[0], node.outputs[1]
        (dx,) = build.add(MaxPoolGrad(self, x.type), dy, index, names=(f"d_{x.name}",))
        return {x: dx}


#: windows a matmul kernel can pool its tile over
_IN_A_TILE = ((1, 2), (2, 1), (2, 2))


@dataclass(frozen=True)
class MaxPoolGrad(Op):
    """dx from (dy, index): every pixel gets dy of the windows it won."""

    of: MaxPool
    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, index = operands
        (top, _), (left, _) = self.of.window(self.x).padding
        kernel, step = self.of.kernel, self.of.step
        small = self.of.shape(self.x)
        # the part of the padded map that the windows cover
        height = (small.height - 1) * step[0] + kernel[0]
        width = (small.width - 1) * step[1] + kernel[1]
        won = f"F.one_hot({index}.long(), {kernel[0] * kernel[1]}).bool()"
        spread = (
            f"torch.where({won}, {dy}.unsqueeze(-1), 0).movedim(-1, 2).flatten(3).flatten(1, 2)"
        )
        folded = f"F.fold({spread}, ({height}, {width}), {kernel}, stride={step})"
        right, bottom = self.x.width + left - width, self.x.height + top - height
        return (f"F.pad({folded}, ({-left}, {right}, {-top}, {bottom}))",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, index = node.inputs
        tensors = {"dy_ptr": dy, "index_ptr": index, "dx_ptr": tail.output}
        window = self.of.window(self.x)
        return pooling_launch("max_pool_gradient", tensors, self.x, dy.type, window)
