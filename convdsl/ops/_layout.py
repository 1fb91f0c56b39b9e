"""The same tensor, channels first in memory."""

from dataclasses import dataclass

from convdsl.ir.op import Op
from convdsl.ir.types import TensorType


@dataclass(frozen=True)
class ChannelsFirst(Op):
    """y = x, for plain PyTorch, where the order in memory is a tensor's own affair."""

    @property
    def title(self) -> str:
        return "layout"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return operands

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"{operands[0]}.contiguous()",)
