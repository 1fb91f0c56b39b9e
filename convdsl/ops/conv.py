"""CONV: convolution over maps."""

from dataclasses import replace

from convdsl.ir.arguments import ArgumentError, Pair, field, flag, pair, whole
from convdsl.ir.op import Layer, op
from convdsl.ir.types import TensorType
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry, convolution, refuse_axes
from convdsl.ops._position_bias import PositionBias
from convdsl.ops._window import AROUND_MAP, Padding, map_padding


def bias_kind(value: object) -> bool | str:
    """``true``, ``false`` or ``position``."""
    try:
        return "position" if value == "position" else flag(value)
    except ArgumentError:
        raise ArgumentError("true, false or position") from None


@op("CONV")
class Conv(Convolution):
    """Slide K learned filters of extent F over the map: W2 = (W1 - F + 2P)/S + 1.

    y[k,p,q] = b[k] + sum of w[k,c,r,s] * x[c, p*S - P + r, q*S - P + s] (LeCun et al., 1998).
    With ``groups`` each share of the filters sees its own share of the channels (AlexNet, 2012).
    ``bias=position`` learns a number for every output instead of one per filter (AlphaGo, 2016).
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: Pair = field((3, 3), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field((1, 1), letter="S", convert=pair(1), doc="step between two places")
    pad: Padding = field("half", letter="P", convert=map_padding, doc=AROUND_MAP)
    dilation: Pair = field((1, 1), convert=pair(1), doc="distance between the taps of a filter")
    groups: int = field(1, convert=whole(1), doc="independent shares of channels and filters")
    bias: bool | str = field(
        True, convert=bias_kind, doc="add a learned number per filter; position: per output"
    )

    can_pool = True
    aliases = ("CONVOLUTION",)
    examples = (
        ("3@8x8", "CONV(4, F=3)"),
        ("4@9x7", "CONV(6, F=3x2, S=2, P=same, groups=2)"),
        ("2@11x9", "CONV(3, F=3, S=1x2, P=valid, dilation=2, bias=false)"),
        ("2@5x4", "CONV(3, bias=position)"),
        ("3@5x5", "CONV(1, F=1, bias=position)"),
    )

    def geometry(self, x: TensorType) -> Geometry:
        refuse_axes(x, 2, "write CONV1D, which convolves sequences")
        return convolution(
            x, self.filters, self.kernel, self.stride, self.pad, self.dilation, self.groups
        )

    def parts(self, *inputs: TensorType) -> tuple[tuple[str, Layer], ...]:
        if self.bias != "position":
            return ()
        # both keep the path: the parameters are the layer's weight and bias
        geometry = self.geometry(inputs[0])
        fan_in = geometry.group_channels * geometry.taps
        added = PositionBias(fan_in, bias_init=self.bias_init)
        return (("", replace(self, bias=False)), ("", added))

    def torch_groups(self, x: str) -> int:
        return self.groups

    @property
    def letters(self) -> tuple[str, str]:
        return "C1" if self.groups == 1 else "C1/groups", "K"
