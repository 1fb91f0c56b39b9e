"""SHUFFLE: channels of different groups side by side."""

from convdsl.ir.arguments import field, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import Layer, ShapeError, op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import block_launch


@op("SHUFFLE")
class Shuffle(Layer):
    """Channel j of group g becomes channel j*groups + g (ShuffleNet: Zhang et al., 2017)."""

    groups: int = field(convert=whole(1), doc="shares of the channels, as of the layer before")
    has_epilogue = True
    aliases = ("CHANNELSHUFFLE",)
    examples = (
        ("6@3x4", "SHUFFLE(2)"),
        ("6@5", "SHUFFLE(3)"),
        ("12", "SHUFFLE(4)"),
        ("130@2x1", "SHUFFLE(10)"),
        ("5@2x2", "SHUFFLE(5)"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        if x.channels % self.groups:
            raise ShapeError(
                "E213",
                "groups={groups} does not divide the {count} channels of {x}",
                help="choose groups that divide the channels",
                argument="groups",
                groups=self.groups,
                count=x.channels,
                x=x,
            )
        return x

    def is_identity(self, training: bool) -> bool:
        return self.groups == 1

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.unflatten(1, ({self.groups}, -1)).transpose(1, 2).flatten(1, 2)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, y = node.inputs[0], tail.output
        launch = block_launch(
            Nest("shuffle", "shuffle"),
            x.type,
            {"x_ptr": x, "y_ptr": y, "C": x.type.channels, "GROUPS": self.groups},
        )
        return Schedule((launch,))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        """The groups and the channels within a group change their parts."""
        x = node.inputs[0]
        back = Shuffle(x.type.channels // self.groups)
        (dx,) = build.add(back, dy, names=(f"d_{x.name}",))
        return {x: dx}
