"""AVGPOOL: mean over a sliding window."""

from dataclasses import dataclass

from convdsl.ir.arguments import Pair, choice, field, flag, optional, padding, pair
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Layer, Op, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._pooling import mean_launch, pooled, pooling_window, torch_padding
from convdsl.ops._window import Padding


@op("AVGPOOL")
class AvgPool(Layer):
    """Mean over windows of extent F: W2 = (W1 - F + 2P)/S + 1 (LeCun et al., 1998)."""

    kernel: Pair = field((2, 2), convert=pair(1), letter="F", doc="extent of the window")
    stride: Pair | None = field(
        None, convert=optional(pair(1)), letter="S", doc="step of the window; the window itself"
    )
    pad: Padding = field(
        ((0, 0), (0, 0)),
        convert=padding("same", "half", "valid"),
        letter="P",
        doc="zeros around the map, at most F/2",
    )
    round: str = field(
        "floor",
        convert=choice("floor", "ceil"),
        doc="what a size that is not whole becomes; ceil lets the last window hang over the edge",
    )
    count_pad: bool = field(
        True, convert=flag, doc="whether the mean counts the zeros of the padding"
    )
    has_epilogue = True
    examples = (
        ("6@6x8", "AVGPOOL"),
        ("3@7x9", "AVGPOOL(3, S=2)"),
        ("3@8x7", "AVGPOOL(3, S=2, P=1, round=ceil)"),
        ("3@8x7", "AVGPOOL(3, S=2, P=1, round=ceil, count_pad=false)"),
        ("2@7x8", "AVGPOOL(3, S=2, P=same)"),
        ("2@7x8", "AVGPOOL(3, S=2, P=same, count_pad=false)"),
        ("5@4x6", "AVGPOOL((1, 2))"),
    )

    @property
    def step(self) -> Pair:
        """The stride in force."""
        return self.kernel if self.stride is None else self.stride

    def window(self, *inputs: TensorType) -> Window:
        return pooling_window(inputs[0], self.kernel, self.step, self.pad, self.round)

    def shape(self, *inputs: TensorType) -> TensorType:
        return pooled(inputs[0], self.window(*inputs))

    def reference(self, *operands: str) -> tuple[str, ...]:
        around = torch_padding(self.kernel, self.step, self.pad)
        ceil = self.round == "ceil" and self.pad != "same"

        def mean(x: str) -> str:
            padded = around.before.format(x=x, value=0)
            return (
                f"F.avg_pool2d({padded}, {self.kernel}, {self.step}, {around.start},"
                f" ceil_mode={ceil}, count_include_pad={self.count_pad})"
            )

        (x,) = operands
        if around.before == "{x}" or self.count_pad:
            return (mean(x),)
        # torch takes explicit zeros for pixels, so their share is divided out
        return (f"{mean(x)} / {mean(f'torch.ones_like({x})')}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors = {"x_ptr": x, "y_ptr": tail.output}
        window = self.window(x.type)
        return mean_launch(
            "average_pool", tensors, x.type, node.output.type, window, self.count_pad
        )

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(AvgPoolGrad(self, x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class AvgPoolGrad(Op):
    """dx from dy: every window hands its share back to each pixel it covers."""

    of: AvgPool
    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        (dy,) = operands
        (forward,) = self.of.reference("x")
        zeros = f"{dy}.new_zeros(({dy}.shape[0], *{self.x.shape}))"
        # averaging is linear, so its gradient does not depend on the place it is taken at
        return (f"torch.func.vjp(lambda x: {forward}, {zeros})[1]({dy})[0]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy = node.inputs[0]
        tensors = {"dy_ptr": dy, "dx_ptr": tail.output}
        window, count_pad = self.of.window(self.x), self.of.count_pad
        return mean_launch("average_pool_gradient", tensors, self.x, dy.type, window, count_pad)
