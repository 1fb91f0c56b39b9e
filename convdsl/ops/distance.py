"""DISTANCE: how far apart two vectors are, the last layer of a Siamese network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convdsl.ir.arguments import ArgumentError, field
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, ShapeError, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import row_launch
from convdsl.ops.add import Add, disagreement, projection

#: what torch adds to every difference, so that equal vectors have a gradient
EPS = 1e-6


def _power(value: Any) -> int:
    """1 or 2."""
    if isinstance(value, bool) or value not in (1, 2):
        raise ArgumentError("1 (sum of absolute differences) or 2 (Euclidean)")
    return int(value)


@op("DISTANCE")
class Distance(Layer):
    """y = (sum of |a - b + 1e-6|^p)^(1/p) for every sample, as torch's pairwise_distance.

    Two branches with the same weights make a Siamese network (Bromley et al., 1993):
    DISTANCE{@a - tower | @b - tower}.
    """

    p: int = field(2, convert=_power, doc="norm: 2 is Euclidean, 1 adds absolute differences")

    arity = 0
    has_epilogue = True
    aliases = ("PAIRWISEDISTANCE", "EUCLIDEAN")
    examples = (
        ("10", "DISTANCE{ID | TANH}"),
        ("7", "DISTANCE(p=1){FC(5) | SIGMOID - FC(5)}"),
        ("4", "DISTANCE{ID | ID}"),
        ("3@4x4", "DISTANCE{GAP | FLATTEN - FC(3)}"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        if len(inputs) != 2:
            raise ShapeError(
                "E225",
                "measures between two branches, got {count}",
                help="write DISTANCE{{ a | b }}",
                count=len(inputs),
            )
        if inputs[0].shape != inputs[1].shape:
            help = "end both branches alike, for example in FC(64)"
            if all(x.is_vector for x in inputs):
                help = projection(inputs)
            raise disagreement("DISTANCE branches disagree", inputs, help)
        if not inputs[0].is_vector:
            raise ShapeError(
                "E214",
                "needs vectors, got {x}",
                help="end both branches in FC(64), GAP or FLATTEN",
                x=inputs[0],
            )
        return inputs[0].with_shape(1)

    def window(self, *inputs: TensorType) -> Window:
        return Window(everything=True)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"F.pairwise_distance({', '.join(operands)}, p={self.p}, keepdim=True)",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        a, b = node.inputs
        return _over_rows("distance", {"a_ptr": a, "b_ptr": b, "y_ptr": tail.output}, a, self.p)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        a, b = node.inputs
        names = (f"d_{a.name}", f"d_{b.name}")
        da, db = build.add(DistanceGradient(self.p), dy, a, b, names=names)
        if a == b:
            (da,) = build.add(Add(), da, db, names=(f"d_{a.name}",))
            return {a: da}
        return {a: da, b: db}


@dataclass(frozen=True)
class DistanceGradient(Op):
    """da and db = -da from (dy, a, b): dy times d / |d|, or times the sign of d if p is 1.

    d = a - b + 1e-6; where the Euclidean distance is exactly 0, so is the gradient.
    """

    p: int

    @property
    def title(self) -> str:
        return "distance_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return operands[1:]

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, a, b = operands
        d = f"{a} - {b} + {EPS}"
        slope = f"F.normalize({d}, dim=1)" if self.p == 2 else f"torch.sign({d})"
        return f"{dy} * {slope}", f"-{dy} * {slope}"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (dy, a, b), (da, db) = node.inputs, node.outputs
        tensors = {"dy_ptr": dy, "a_ptr": a, "b_ptr": b, "da_ptr": da, "db_ptr": db}
        return _over_rows("distance_gradient", tensors, a, self.p)


def _over_rows(function: str, tensors: Mapping[str, Argument], a: Value, power: int) -> Schedule:
    arguments = {**tensors, "EPS": EPS, "POWER": power}
    return Schedule((row_launch(Nest("distance", function), a.type, arguments),))
