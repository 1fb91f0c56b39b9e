"""LRN: local response normalisation across channels, AlexNet's NORM."""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.arguments import field, number, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import Layer, Op, ShapeError, op
from convdsl.ir.types import TensorType
from convdsl.ops._axes import axes_of
from convdsl.ops._rows import block_launch


@op("LRN")
class LocalResponseNorm(Layer):
    """y[c] = x[c] / (k + alpha/size * sum over |j| <= size/2 of x[c+j]^2)^beta.

    Channels beyond the ends count as 0 (Krizhevsky, Sutskever and Hinton, 2012, section 3.3). As
    in torch alpha is divided by the size of the window: the paper's alpha is that quotient.
    """

    size: int = field(5, convert=whole(1), doc="channels of the centred window, an odd number")
    alpha: float = field(1e-4, convert=number(least=0.0), doc="weight of the mean square, >= 0")
    beta: float = field(0.75, convert=number(least=0.0), doc="power of the divisor, >= 0")
    k: float = field(1.0, convert=number(least=1e-6), doc="added to the mean square, above 0")
    has_epilogue = True
    aliases = ("NORM", "LOCALRESPONSENORM")
    examples = (
        ("6@5x7", "LRN"),
        ("6@5x7", "LRN(3, alpha=2, beta=0.5, k=2)"),
        ("3@4x2", "LRN(7, alpha=0.5, beta=2)"),
        ("130@2x1", "LRN(alpha=1)"),
        ("5@9", "LRN(1, alpha=3)"),
    )

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        axes_of(x)
        if self.size % 2 == 0:
            raise ShapeError(
                "E222",
                "size = {size} is even, so no channel is in the middle of its window",
                help="use size={less} or size={more}",
                argument="size",
                size=self.size,
                less=self.size - 1,
                more=self.size + 1,
            )
        return x

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (self.torch(operands[0]),)

    def torch(self, x: str) -> str:
        """Torch's own function of ``x``, squared in float32 at least, as the kernels do.

        It has none for 16 bits on the CPU, and 300^2 is beyond float16.
        """
        wide = f"{x}.to(torch.promote_types({x}.dtype, torch.float32))"
        arguments = f"{self.size}, {self.alpha}, {self.beta}, {self.k}"
        return f"F.local_response_norm({wide}, {arguments}).to({x}.dtype)"

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        return self.launch("lrn", {"x_ptr": x, "y_ptr": tail.output}, x.type)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(LocalResponseNormGradient(self), dy, x, names=(f"d_{x.name}",))
        return {x: dx}

    def launch(self, function: str, tensors: Mapping[str, Argument], x: TensorType) -> Schedule:
        """One launch of a nest of ``kernels/lrn.py``."""
        arguments = {**tensors, "C": x.channels, **self.constants(x)}
        return Schedule((block_launch(Nest("lrn", function), x, arguments),))

    def constants(self, x: TensorType) -> dict[str, Argument]:
        """What all nests take of the layer."""
        return {
            # a window that reaches over all channels from each of them sees nothing more
            "SIZE": min(self.size, 2 * x.channels - 1),
            "ALPHA": self.alpha / self.size,
            "BETA": self.beta,
            "K": self.k,
        }


@dataclass(frozen=True)
class LocalResponseNormGradient(Op):
    """dx from (dy, x): with s the divisor before its power, of which only x is kept,
    dx = dy * s^-beta - 2 alpha/size beta x * (sum over the window of dy * x * s^-(beta+1))."""

    of: LocalResponseNorm
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (operands[1],)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, x = operands
        return (f"torch.func.vjp(lambda x: {self.of.torch('x')}, {x})[1]({dy})[0]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, x = node.inputs
        tensors = {"dy_ptr": dy, "x_ptr": x, "dx_ptr": tail.output}
        return self.of.launch("lrn_gradient", tensors, x.type)
