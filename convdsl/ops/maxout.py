"""MAXOUT: the maximum of every group of k channels."""

from convdsl.ir.arguments import field, whole
from convdsl.ir.op import ShapeError, op
from convdsl.ops._channel_pool import ChannelPooling


@op("MAXOUT")
class Maxout(ChannelPooling):
    """y[j] = max of x[k*j], ..., x[k*j + k - 1] (Goodfellow et al., 2013).

    A group of k consecutive channels becomes one: CONV(k*K) - MAXOUT(k) has K maxout units. Ties
    go to the first, NaN wins, as in torch's pooling.
    """

    k: int = field(2, convert=whole(1), doc="channels of a group, which divides the channels")
    examples = (
        ("6@5x7", "MAXOUT"),
        ("12", "MAXOUT(3)"),
        ("5@9", "MAXOUT(5)"),
        ("3@2x2", "MAXOUT(1)"),
    )

    @property
    def extent(self) -> int:
        return self.k

    @property
    def step(self) -> int:
        return self.k

    @property
    def takes_maximum(self) -> bool:
        return True

    def check(self, channels: int) -> None:
        """Raises ShapeError E213 unless k divides the channels."""
        if channels % self.k:
            raise ShapeError(
                "E213",
                "k = {k} does not divide the {channels} channels",
                help="choose a k that does, or make the layer before it {more} channels wide",
                argument="k",
                k=self.k,
                channels=channels,
                more=-(-channels // self.k) * self.k,
            )
