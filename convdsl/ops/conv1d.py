"""CONV1D: convolution over sequences."""

from convdsl.ir.arguments import field, flag, single, whole
from convdsl.ir.op import op
from convdsl.ir.types import TensorType
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry, convolution, refuse_axes
from convdsl.ops._window import AROUND_SEQUENCE, Padding, sequence_padding


@op("CONV1D")
class Conv1d(Convolution):
    """Slide K learned filters of extent F along the sequence: L2 = (L1 - F + 2P)/S + 1.

    y[k,p] = b[k] + sum of w[k,c,r] * x[c, p*S - P + r]: the convolution of time series (Waibel et
    al., 1989). The weight is (K, C/groups, F).
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: tuple[int, ...] = field(
        (3,), letter="F", convert=single(1), doc="extent of a filter along the sequence"
    )
    stride: tuple[int, ...] = field(
        (1,), letter="S", convert=single(1), doc="step between two places"
    )
    pad: Padding = field("half", letter="P", convert=sequence_padding, doc=AROUND_SEQUENCE)
    dilation: tuple[int, ...] = field(
        (1,), convert=single(1), doc="distance between the taps of a filter"
    )
    groups: int = field(1, convert=whole(1), doc="independent shares of channels and filters")
    bias: bool = field(True, convert=flag, doc="add a learned number per filter")

    aliases = ("CONVOLUTION1D",)
    examples = (
        ("3@8", "CONV1D(4, F=3)"),
        ("1@6", "CONV1D(1, F=3, P=valid)"),
        ("4@9", "CONV1D(6, F=4, S=2, P=same, groups=2)"),
        ("2@11", "CONV1D(3, S=2, P=(2, 1), dilation=2, bias=false)"),
        ("2@11", "CONV1D(3, F=5, S=3, P=full)"),
    )

    def geometry(self, x: TensorType) -> Geometry:
        refuse_axes(x, 1, "write CONV, which convolves maps")
        return convolution(
            x, self.filters, self.kernel, self.stride, self.pad, self.dilation, self.groups
        )

    def torch_groups(self, x: str) -> int:
        return self.groups

    @property
    def letters(self) -> tuple[str, str]:
        return "C1" if self.groups == 1 else "C1/groups", "K"
