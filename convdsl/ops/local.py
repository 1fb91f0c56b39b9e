"""LOCAL: a locally connected layer over a map."""

from convdsl.ir.arguments import Pair, field, flag, pair, whole
from convdsl.ir.op import op
from convdsl.ops._local import LocallyConnected
from convdsl.ops._window import AROUND_MAP, Padding, map_padding


@op("LOCAL")
class Local(LocallyConnected):
    """A convolution without shared weights: every output position has filters of its own.

    y[k,p,q] = b[k,p,q] + sum of w[p,q,k,c,r,s] * x[c, p*S - P + r, q*S - P + s]
    (LeCun, 1989; Taigman et al., 2014; Keras' LocallyConnected2D).
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: Pair = field((3, 3), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field((1, 1), letter="S", convert=pair(1), doc="step between two places")
    pad: Padding = field("valid", letter="P", convert=map_padding, doc=AROUND_MAP)
    bias: bool = field(True, convert=flag, doc="add a learned number per filter and position")

    aliases = ("LOCALLYCONNECTED",)
    examples = (
        ("3@6x5", "LOCAL(4)"),
        ("2@7x6", "LOCAL(3, F=3x2, S=2, P=same, bias=false)"),
        ("5@4x4", "LOCAL(2, F=2, S=3, P=((1, 0), (0, 2)))"),
        ("2@3x3", "LOCAL(2, P=full)"),
        ("33@2x3", "LOCAL(17, F=1)"),
    )
