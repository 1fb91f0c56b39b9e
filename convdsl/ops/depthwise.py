"""DWCONV: depthwise convolution, on loop nests of its own."""

from convdsl.ir.arguments import Pair, field, flag, pair, whole
from convdsl.ir.graph import Node
from convdsl.ir.launch import Argument, Schedule, Stride, Tail
from convdsl.ir.op import Op, op
from convdsl.ir.types import TensorType
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry, convolution, refuse_axes
from convdsl.ops._depthwise_gradients import DepthwiseGradInput, DepthwiseGradWeight, launch
from convdsl.ops._window import AROUND_MAP, Padding, map_padding


@op("DWCONV")
class DwConv(Convolution):
    """Convolve each channel by itself: CONV with as many groups as channels (Chollet, 2017).

    y[m + c*multiplier,p,q] = b + sum of w[m + c*multiplier,0,r,s] * x[c, p*S - P + r, q*S - P + s].
    """

    kernel: Pair = field((3, 3), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field((1, 1), letter="S", convert=pair(1), doc="step between two places")
    pad: Padding = field("half", letter="P", convert=map_padding, doc=AROUND_MAP)
    dilation: Pair = field((1, 1), convert=pair(1), doc="distance between the taps of a filter")
    multiplier: int = field(1, letter="M", convert=whole(1), doc="filters per channel")
    bias: bool = field(True, convert=flag, doc="add a learned number per filter")

    aliases = ("DEPTHWISE", "DEPTHWISECONV")
    examples = (
        ("3@6x5", "DWCONV"),
        ("4@9x7", "DWCONV(F=3x2, S=2, P=same)"),
        ("2@7x8", "DWCONV(5, S=1x2, multiplier=3)"),
        ("3@9x9", "DWCONV(3, P=full, dilation=2, bias=false)"),
        ("70@3x2", "DWCONV(S=3)"),
    )

    def geometry(self, x: TensorType) -> Geometry:
        refuse_axes(x, 2, "CONV1D with groups=@.C convolves each channel of a sequence by itself")
        filters = x.channels * self.multiplier
        return convolution(
            x, filters, self.kernel, self.stride, self.pad, self.dilation, groups=x.channels
        )

    def torch_groups(self, x: str) -> str:
        return f"{x}.shape[1]"

    @property
    def letters(self) -> tuple[str, str]:
        return "", "C1" if self.multiplier == 1 else "C1*M"

    def weight_order(self, geometry: Geometry) -> tuple[int, ...]:
        # neighbouring filters side by side: lanes run along them
        return (2, 3, 1, 0)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        tensors: dict[str, Argument] = {
            "x_ptr": x,
            "w_ptr": weight,
            "bias_ptr": bias[0] if bias else None,
            "y_ptr": tail.output,
            "X_STRIDE": Stride(x),
            "Y_STRIDE": Stride(tail.output),
        }
        touched = geometry.touched_of_x(x)
        return Schedule((launch("depthwise_forward", geometry, tensors, geometry.y, touched),))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,)

    def gradients(self, geometry: Geometry, bias: bool) -> tuple[Op, Op]:
        return DepthwiseGradInput(geometry), DepthwiseGradWeight(geometry, bias)
