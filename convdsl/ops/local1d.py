"""LOCAL1D: a locally connected layer over a sequence."""

from convdsl.ir.arguments import field, flag, single, whole
from convdsl.ir.op import op
from convdsl.ops._local import LocallyConnected
from convdsl.ops._window import AROUND_SEQUENCE, Padding, sequence_padding


@op("LOCAL1D")
class Local1d(LocallyConnected):
    """A convolution of a sequence without shared weights: every place has filters of its own.

    y[k,q] = b[k,q] + sum of w[q,k,c,s] * x[c, q*S - P + s] (Keras' LocallyConnected1D). From 7
    inputs to 3 outputs with F=3 it has 9 weights, where FC has 21 and a convolution 3.
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: tuple[int, ...] = field((3,), letter="F", convert=single(1), doc="extent of a filter")
    stride: tuple[int, ...] = field(
        (1,), letter="S", convert=single(1), doc="step between two places"
    )
    pad: Padding = field("valid", letter="P", convert=sequence_padding, doc=AROUND_SEQUENCE)
    bias: bool = field(True, convert=flag, doc="add a learned number per filter and place")

    aliases = ("LOCALLYCONNECTED1D",)
    examples = (
        ("1@7", "LOCAL1D(1, F=3, S=2, bias=false)"),
        ("3@8", "LOCAL1D(4)"),
        ("2@9", "LOCAL1D(3, F=4, S=3, P=same)"),
        ("5@4", "LOCAL1D(2, F=2, S=3, P=(1, 2))"),
        ("2@3", "LOCAL1D(18, F=3, P=full)"),
    )
