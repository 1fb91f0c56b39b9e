"""CHPOOL: pooling across channels."""

from convdsl.ir.arguments import choice, field, optional, whole
from convdsl.ir.op import ShapeError, op
from convdsl.ops._channel_pool import ChannelPooling


@op("CHPOOL")
class ChannelPool(ChannelPooling):
    """Maximum or mean over windows of F channels at each place: C2 = (C1 - F)/S + 1.

    Ties of a maximum go to the first, NaN wins, as in torch's pooling.
    """

    kernel: int = field(2, convert=whole(1), letter="F", doc="channels of a window")
    stride: int | None = field(
        None, convert=optional(whole(1)), letter="S", doc="step of the window; the window itself"
    )
    mode: str = field("max", convert=choice("max", "avg"), doc="maximum or mean")
    aliases = ("CHANNELPOOL", "CROSSCHANNELPOOL")
    examples = (
        ("6@5x7", "CHPOOL"),
        ("7@3x4", "CHPOOL(3, S=2)"),
        ("9", "CHPOOL(4, S=1)"),
        ("6@5", "CHPOOL(2, S=4)"),
        ("7@3x4", "CHPOOL(3, S=2, mode=avg)"),
        ("9", "CHPOOL(4, S=1, mode=avg)"),
        ("6@5", "CHPOOL(2, S=4, mode=avg)"),
    )

    @property
    def extent(self) -> int:
        return self.kernel

    @property
    def step(self) -> int:
        return self.kernel if self.stride is None else self.stride

    @property
    def takes_maximum(self) -> bool:
        return self.mode == "max"

    def check(self, channels: int) -> None:
        """Raises ShapeError E212 if a window does not fit, E213 if channels are left out."""
        if self.kernel > channels:
            raise ShapeError(
                "E212",
                "a window of {kernel} channels does not fit into {channels}",
                help="use F <= {channels}",
                argument="kernel",
                kernel=self.kernel,
                channels=channels,
            )
        left_out = (channels - self.kernel) % self.step
        if left_out:
            raise ShapeError(
                "E213",
                "windows of {kernel} at S = {step} leave out the last {left_out} of {channels}"
                " channels",
                help="choose F and S so that (C1 - F)/S is whole",
                argument="kernel",
                kernel=self.kernel,
                step=self.step,
                left_out=left_out,
                channels=channels,
            )
