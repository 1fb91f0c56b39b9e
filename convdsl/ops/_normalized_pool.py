"""POOL of what LRN makes, as one kernel."""

from dataclasses import dataclass

from convdsl.ir.graph import Node
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType
from convdsl.ops._pooling import pooling_launch
from convdsl.ops.lrn import LocalResponseNorm
from convdsl.ops.maxpool import MaxPool


@dataclass(frozen=True)
class NormalizedPool(Op):
    """(the pooled map, the winner's place in its window) from x; the normalised map lies nowhere.

    Gradients are those of the two layers, which ask for x and the places.
    """

    norm: LocalResponseNorm
    pool: MaxPool
    has_epilogue = True

    @property
    def title(self) -> str:
        return f"{self.norm.title}_{self.pool.title}"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return self.pool.infer(*operands)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return self.pool.reference(f"({self.norm.torch(operands[0])})")

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (y, index) = node.inputs[0], node.outputs
        tensors = {"x_ptr": x, "y_ptr": tail.output, "index_ptr": index}
        nest, window = Nest("lrn_pool", "lrn_max_pool"), self.pool.window(x.type)
        constants = self.norm.constants(x.type)
        return pooling_launch(nest, tensors, x.type, y.type, window, **constants)
