"""Pointwise layers as table rows: a Triton expression, its derivative and the torch meaning.

What the backward pass saves is read off the derivative: ``{x}`` saves the input, ``{y}`` the
output. A derivative of functions that torch has under the same name (``tl.where``, ``tl.exp``,
``tl.sigmoid``, ``tl.abs``) also serves the float64 reference; one that calls helpers of `kernels/`
stands beside the torch text that does.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from convdsl.ir.broadcast import tile_of
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Band, Launch, Nest, Schedule, Size, Stride, Tail
from convdsl.ir.op import Layer, Op
from convdsl.ir.types import TensorType
from convdsl.ops._rows import block_launch, tile

BLOCK = 1024
FLAT = Nest("pointwise", "pointwise")


def pointwise_schedule(node: Node, tail: Tail, nest: Nest = FLAT) -> Schedule:
    """One launch of a 1-D nest; the arithmetic is in its epilogue."""
    if tail.by_rows and nest == FLAT:
        return rows_schedule(node, tail)
    elements = tail.output.type.elements
    size = f"n * {elements}" if tail.output.type.batched else f"{elements}"
    launch = Launch(
        nest,
        {
            "x_ptr": tile_of(node),
            "y_ptr": tail.output,
            "elements": Size(size),
            "BLOCK": BLOCK,
        },
        grid=(f"triton.cdiv({size}, {BLOCK})",),
    )
    return Schedule((launch,))


def rows_schedule(node: Node, tail: Tail) -> Schedule:
    """One launch of the 2-D nest, for arithmetic with several numbers per channel, and strides."""
    nest, stored, x = Nest("pointwise", "pointwise_rows"), tail.output.type, tile_of(node)
    given: dict[str, Argument] = {"x_ptr": x, "y_ptr": tail.output}
    given["channels"] = Size(f"{stored.channels}")
    given["x_stride"] = Stride(x, constant=False)
    given["y_stride"] = Stride(tail.output, constant=False)
    # high enough for reductions to begin there
    block = tile(stored.channels, 2 * BLOCK, most=64)
    launch = block_launch(nest, stored, given, block)
    band = Band(block[0], "tl.program_id(0)", stored.pixels) if stored.batched else None
    return Schedule((replace(launch, band=band, warps=8),))


def fill(template: str, attributes: Any, **operands: str) -> str:
    """``template`` with operand names and the op's own fields put in."""
    given = {f.name: getattr(attributes, f.name) for f in fields(attributes)}
    values = {k: f'"{v}"' if isinstance(v, str) else repr(v) for k, v in given.items()}
    return template.format(**values, **operands)


class Pointwise(Layer):
    """Base of the layers that act on each element alone."""

    forward: ClassVar[str]  # Triton, of {x} and the fields
    derivative: ClassVar[str]  # Triton, of {dy}, {x}, {y} and the fields
    torch: ClassVar[str]  # torch, of {x} and the fields
    condition: ClassVar[str] = ""  # in the derivative, all that it asks of {y}
    gradient_helpers: ClassVar[tuple[Nest, ...]] = ()  # what the derivative calls
    torch_derivative: ClassVar[str] = ""  # torch, of {dy}, {x} and the fields; then needed
    has_epilogue = True
    is_activation = True

    def shape(self, *inputs: TensorType) -> TensorType:
        return inputs[0]

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (fill(self.torch, self, x=operands[0]),)

    def expression(self, *operands: str) -> str:
        return fill(self.forward, self, x=operands[0])

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, y = node.inputs[0], node.output
        saved = [v for key, v in (("{x}", x), ("{y}", y)) if key in self.derivative]
        (dx,) = build.add(PointwiseGradient(self), dy, *saved, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class PointwiseGradient(Op):
    """dx = dy * f'(x), from the saved tensors the derivative names: operands (dy[, x][, y])."""

    of: Pointwise
    has_epilogue = True
    may_drop_result = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    @property
    def helpers(self) -> tuple[Nest, ...]:
        return self.of.gradient_helpers

    @property
    def needs_only_output(self) -> bool:
        """The derivative is written in the layer's output (ReLU, sigmoid, tanh, ...)."""
        return "{x}" not in self.of.derivative

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def expression(self, *operands: str) -> str:
        return self._fill(self.of.derivative, operands)

    def reference(self, *operands: str) -> tuple[str, ...]:
        text = self.of.torch_derivative or self.of.derivative.replace("tl.", "torch.")
        return (self._fill(text, operands),)

    def _fill(self, template: str, operands: tuple[str, ...]) -> str:
        names = [key for key in ("x", "y") if f"{{{key}}}" in self.of.derivative]
        saved = dict(zip(names, operands[1:], strict=True))
        return fill(template, self.of, dy=operands[0], **saved)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)


@dataclass(frozen=True)
class Recomputed(Op):
    """A gradient (dy, y) with y worked out again: operands (dy, operands of the first of ``by``).

    by: pointwise ops, each behind the first of the result before it alone.
    """

    of: PointwiseGradient
    by: tuple[Op, ...]
    has_epilogue = True
    may_drop_result = True

    @property
    def title(self) -> str:
        return self.of.title

    @property
    def helpers(self) -> tuple[Nest, ...]:
        return (*self.of.helpers, *(helper for op in self.by for helper in op.helpers))

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[0],)

    def expression(self, *operands: str) -> str:
        dy, *rest = operands
        y = f"({self.by[0].expression(*rest)})"
        for op in self.by[1:]:
            y = f"({op.expression(y)})"
        return self.of.expression(dy, y)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, *rest = operands
        y = f"({self.by[0].reference(*rest)[0]})"
        for op in self.by[1:]:
            y = f"({op.reference(y)[0]})"
        return self.of.reference(dy, y)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return rows_schedule(node, tail)
