"""MUL: the product of two or more tensors, and the gate that scales the channels of a map."""

from collections import Counter
from dataclasses import dataclass

from convdsl.ir.broadcast import element_of
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, op
from convdsl.ir.types import TensorType
from convdsl.ops._pointwise import pointwise_schedule
from convdsl.ops._rows import tile
from convdsl.ops.add import Add, disagreement, projection


@op("MUL")
class Mul(Layer):
    """y = a * b * ... of one shape; a vector of C, or C@1x1, scales the channels of a larger one.

    MUL{ID | GAP - FC(c) - RELU - FC(C) - SIGMOID} is squeeze-and-excitation (Hu et al., 2017).
    """

    arity = 0
    has_epilogue = True
    aliases = ("MULTIPLY", "GATE", "SCALE")
    examples = (
        ("6@5x7", "MUL{ID | TANH}"),
        ("6@5x7", "MUL{ID | GAP - FC(3) - RELU - FC(6) - SIGMOID}"),
        ("4@5x3", "MUL{GAP - SIGMOID | ID | AVGPOOL((5, 3)) | TANH}"),
        ("10", "MUL{SIGMOID | ID | TANH}"),
        ("3@4x4", "MUL{ID | ID | ID}"),
        ("70@9x8", "MUL{GAP | ID}"),
        ("5@1x1", "MUL{GAP | ID}"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        full = _full(inputs)
        wrong = [x for x in inputs if element_of(x, full) is None]
        if wrong:
            large = tuple(x for x in inputs if not _is_gate(x))
            help = (
                f"end the gate in FC({full.channels}): one number per channel"
                if large and all(x.shape == full.shape for x in large)
                else projection(large or inputs)
            )
            raise disagreement("MUL branches disagree", inputs, help)
        return full

    def reference(self, *operands: str) -> tuple[str, ...]:
        # the dots stand for no axis of a vector and for both of a map: a gate spreads over it
        axes = ",".join("nc..." for _ in operands)
        return (f'torch.einsum("{axes}->nc...", {", ".join(operands)})',)

    def expression(self, *operands: str) -> str:
        return " * ".join(operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return pointwise_schedule(node, tail)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        """dy times the others for each input, summed over the pixels for a gate.

        An input that is multiplied k times gets this k times.
        """
        gradients = {}
        for x, times in Counter(node.inputs).items():
            others = list(node.inputs)
            others.remove(x)
            name = f"d_{x.name}"
            if x.type.shape == dy.type.shape:
                (dx,) = build.add(Mul(), dy, *others, names=(name,))
            else:
                product = others[0]
                if len(others) > 1:
                    (product,) = build.add(Mul(), *others, names=(f"{name}_factor",))
                (dx,) = build.add(PixelSum(x.type), dy, product, names=(name,))
            if times > 1:
                (dx,) = build.add(Add(), *(dx,) * times, names=(name,))
            gradients[x] = dx
        return gradients


@dataclass(frozen=True)
class PixelSum(Op):
    """The sum over the pixels of a * b, as the gradient of a gate of type ``gate``."""

    gate: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return "pixel_sum"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.gate,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        a, b = operands
        axes = ", None" * (len(self.gate.shape) - 1)
        return (f"({a} * {b}).flatten(2).sum(2)" + (f"[:, :{axes}]" if axes else ""),)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        a, b = node.inputs
        rows, columns = tile(a.type.channels, elements=2048, most=64)
        launch = Launch(
            Nest("pixel_sum", "pixel_sum"),
            {
                "a_ptr": a,
                "b_ptr": b,
                "y_ptr": tail.output,
                "PIXELS": a.type.pixels,
                "C": a.type.channels,
                "ROWS": rows,
                "COLS": columns,
            },
            ("n", str(-(-a.type.channels // columns))),
        )
        return Schedule((launch,))


def _is_gate(x: TensorType) -> bool:
    """One number per channel."""
    return x.elements == x.channels


def _full(inputs: tuple[TensorType, ...]) -> TensorType:
    """The type of the product if there is one: that of the largest map, or vector."""
    return max(inputs, key=lambda x: (x.pixels, x.elements, len(x.shape)))
