"""SEPCONV: a depthwise and a pointwise convolution as one layer."""

from typing import Any

from convdsl.ir.arguments import Pair, field, flag, pair, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.op import Layer, ParameterSpec, op
from convdsl.ir.types import TensorType
from convdsl.ops._convolution import refuse_axes
from convdsl.ops._weights import Weighted
from convdsl.ops._window import AROUND_MAP, Padding, map_padding
from convdsl.ops.conv import Conv
from convdsl.ops.depthwise import DwConv


@op("SEPCONV")
class SepConv(Weighted):
    """Convolve each channel by itself, then mix the channels by K 1x1 filters (Chollet, 2017).

    DWCONV without bias followed by CONV with F=1: F*F*C1 + C1*K weights where CONV has F*F*C1*K.
    The parameters are ``depthwise.weight``, ``pointwise.weight`` and ``pointwise.bias``.
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: Pair = field((3, 3), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field((1, 1), letter="S", convert=pair(1), doc="step between two places")
    pad: Padding = field("half", letter="P", convert=map_padding, doc=AROUND_MAP)
    dilation: Pair = field((1, 1), convert=pair(1), doc="distance between the taps of a filter")
    bias: bool = field(True, convert=flag, doc="add a learned number per filter at the end")

    aliases = ("SEPARABLE", "SEPARABLECONV")
    examples = (
        ("3@6x5", "SEPCONV(4)"),
        ("4@7x8", "SEPCONV(3, F=5x2, S=2, P=same, bias=false)"),
        ("2@8x6", "SEPCONV(5, dilation=2)"),
    )

    def parts(self, *inputs: TensorType) -> tuple[tuple[str, Layer], ...]:
        refuse_axes(inputs[0], 2, "SEPCONV works on maps; two CONV1D make one for sequences")
        weights: dict[str, Any] = {
            "init": self.init,
            "bias_init": self.bias_init,
            "l1": self.l1,
            "l2": self.l2,
            "max_norm": self.max_norm,
        }
        depthwise = DwConv(
            self.kernel, self.stride, self.pad, self.dilation, multiplier=1, bias=False, **weights
        )
        pointwise = Conv(self.filters, (1, 1), bias=self.bias, **weights)
        return (("depthwise", depthwise), ("pointwise", pointwise))

    def shape(self, *inputs: TensorType) -> TensorType:
        (_, depthwise), (_, pointwise) = self.parts(*inputs)
        return pointwise.shape(depthwise.shape(*inputs))

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        (_, depthwise), (_, pointwise) = self.parts(*inputs)
        between = depthwise.shape(*inputs)
        return {
            **{f"depthwise.{k}": v for k, v in depthwise.parameters(*inputs).items()},
            **{f"pointwise.{k}": v for k, v in pointwise.parameters(between).items()},
        }

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, depthwise, *pointwise = operands
        (_, first), (_, second) = self.parts(TensorType((1, 1, 1)))
        (between,) = first.reference(x, depthwise)
        return second.reference(between, *pointwise)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        raise TypeError("the graph holds the two parts, each with a gradient of its own")
