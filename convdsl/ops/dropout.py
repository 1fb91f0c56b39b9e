"""DROPOUT: zeroes random elements while training, replayed in the backward pass from the seed."""

from dataclasses import replace
from math import nextafter

from convdsl.ir.arguments import field, number
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Nest
from convdsl.ir.op import op
from convdsl.ops._pointwise import Pointwise


@op("DROPOUT")
class Dropout(Pointwise):
    """Zero each element with probability p, scale the others by 1/(1-p) (Srivastava et al., 2014).

    Nothing is saved: the gradient is the same dropout of dy, with the same seed and salt. A seed
    below 0 turns it off.
    """

    p: float = field(
        0.5, convert=number(0.0, nextafter(1.0, 0.0)), doc="probability of a zero, below 1"
    )
    #: tells the dropouts of a network apart; lowering sets it, the language does not
    salt: int = 0
    forward = "dropout({x}, {p}, {salt}, seed, offsets)"
    torch = "F.dropout({x}, {p}, training)"
    is_activation = False
    helpers = (Nest("dropout", "dropout"),)
    aliases = ("DROP",)
    examples = (("6@5x7", "DROPOUT"), ("10", "DROPOUT(0.2)"))

    def distinct(self, number: int) -> "Dropout":
        return replace(self, salt=number)

    def is_identity(self, training: bool) -> bool:
        return not training or self.p == 0.0

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(self, dy, names=(f"d_{x.name}",))
        return {x: dx}
