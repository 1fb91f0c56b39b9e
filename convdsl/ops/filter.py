"""FILTER: the lectures' image kernels, fixed numbers applied to each channel by itself."""

from convdsl.ir.arguments import choice, field
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Role, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Initializer, Layer, ParameterSpec, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._depthwise_gradients import DepthwiseGradInput
from convdsl.ops._window import AROUND_MAP, Padding, map_padding
from convdsl.ops.depthwise import DwConv

Rows = tuple[tuple[float, ...], ...]


def _divided(by: int, rows: Rows) -> Rows:
    return tuple(tuple(number / by for number in row) for row in rows)


#: by name, as the lectures print them; horizontal_edge is the transpose of vertical_edge
KERNELS: dict[str, Rows] = {
    "identity": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "edge1": ((1, 0, -1), (0, 0, 0), (-1, 0, 1)),
    "edge2": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    "edge3": ((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)),
    "sharpen": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "box_blur": _divided(9, ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    "gaussian_blur": _divided(16, ((1, 2, 1), (2, 4, 2), (1, 2, 1))),
    "vertical_edge": ((1, 0, -1), (1, 0, -1), (1, 0, -1)),
    "horizontal_edge": ((1, 1, 1), (0, 0, 0), (-1, -1, -1)),
    "difference": ((1, -1),),
    "diagonal": ((0.6, 0.2, 0), (0.2, 0, 0.2), (0, 0.2, 0.6)),
}


@op("FILTER")
class Filter(Layer):
    """Apply a fixed image kernel to each channel by itself; there is nothing to learn.

    From the lectures' table of image kernels, row by row: identity [0 0 0; 0 1 0; 0 0 0], edge1
    [1 0 -1; 0 0 0; -1 0 1], edge2 [0 1 0; 1 -4 1; 0 1 0], edge3 [-1 -1 -1; -1 8 -1; -1 -1 -1],
    sharpen [0 -1 0; -1 5 -1; 0 -1 0], box_blur [1 1 1; 1 1 1; 1 1 1]/9 and gaussian_blur
    [1 2 1; 2 4 2; 1 2 1]/16. From their examples: vertical_edge [1 0 -1; 1 0 -1; 1 0 -1], its
    transpose horizontal_edge, difference [1 -1] and, for edges at 45 degrees, diagonal
    [.6 .2 0; .2 0 .2; 0 .2 .6]. As everywhere, the kernel is not turned before it slides.
    """

    kernel: str = field(convert=choice(*KERNELS), doc="name of the image kernel")
    pad: Padding = field("same", letter="P", convert=map_padding, doc=AROUND_MAP)

    has_epilogue = True
    examples = (
        ("3@6x5", "FILTER(sharpen)"),
        ("1@6x6", "FILTER(vertical_edge, P=valid)"),
        ("2@5x4", "FILTER(difference)"),
        ("1@4x4", "FILTER(diagonal, P=full)"),
    )

    @property
    def convolution(self) -> DwConv:
        """The layer that this is with its weights fixed."""
        rows = KERNELS[self.kernel]
        extent, one = (len(rows), len(rows[0])), (1, 1)
        return DwConv(extent, one, self.pad, one, multiplier=1, bias=False)

    def shape(self, *inputs: TensorType) -> TensorType:
        return self.convolution.shape(*inputs)

    def window(self, *inputs: TensorType) -> Window:
        return self.convolution.window(*inputs)

    def macs(self, *inputs: TensorType) -> int:
        return self.convolution.macs(*inputs)

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        numbers = tuple(float(number) for row in KERNELS[self.kernel] for number in row)
        weight = self.convolution.parameters(*inputs)["weight"]
        start = Initializer("values", numbers)
        return {"weight": ParameterSpec(weight.shape, start, weight.permute, Role.CONSTANT)}

    def reference(self, *operands: str) -> tuple[str, ...]:
        return self.convolution.reference(*operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return self.convolution.schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, weight = node.operands
        to_input = DepthwiseGradInput(self.convolution.geometry(x.type))
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        return {x: dx}
