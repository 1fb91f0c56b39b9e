"""The gradient of a layer that gives maps of another size: what such ops have in common."""

from dataclasses import dataclass

from convdsl.ir.op import Layer, Op
from convdsl.ir.types import TensorType


@dataclass(frozen=True)
class MapGradient(Op):
    """dx of the layer ``of`` at an input of type ``x``, from (dy, *parameters) if it is linear.

    What else a layer's gradient needs comes behind dy too; its reference then is its own.
    """

    of: Layer
    x: TensorType
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.of.title}_gradient"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, *parameters = operands
        (forward,) = self.of.reference("x", *parameters)
        zeros = f"{dy}.new_zeros(({dy}.shape[0], *{self.x.shape}))"
        # the layer is linear, so its gradient does not depend on the place it is taken at
        return (f"torch.func.vjp(lambda x: {forward}, {zeros})[1]({dy})[0]",)
