"""The gradient of a map that is pooled, and that a window was cut out of, as one kernel."""

from dataclasses import dataclass, replace

from convdsl.ir.graph import Node
from convdsl.ir.launch import Nest, Schedule, Tail
from convdsl.ir.types import TensorType
from convdsl.ops._copy_window import CopyWindow, touched
from convdsl.ops._pooling import pooling_launch
from convdsl.ops._rows import stride_of
from convdsl.ops._window import as_map
from convdsl.ops.maxpool import MaxPoolGradient


@dataclass(frozen=True)
class UnpoolBeside(MaxPoolGradient):
    """dx from (dy, index, d): what the windows of a POOL give it, and d at its window."""

    window: CopyWindow

    @property
    def title(self) -> str:
        return f"{super().title}_beside"

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, index, d = operands
        ((unpooled,), (copied,)) = super().reference(dy, index), self.window.reference(d)
        return (f"{unpooled} + {copied}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, index, d = node.inputs
        small, (top, left) = as_map(d.type), (0, *self.window.start)[-2:]
        tensors = {"dy_ptr": dy, "index_ptr": index, "beside_ptr": d, "dx_ptr": tail.output}
        (launch,) = pooling_launch(
            Nest("unpool_beside", "max_pool_gradient_beside"),
            tensors,
            self.x,
            dy.type,
            self.of.window(self.x),
            BH=small.height,
            BW=small.width,
            TOP=top,
            LEFT=left,
            BESIDE_STRIDE=stride_of(d, small.channels),
        ).launches
        given = touched(d, self.x, self.window.start)
        return Schedule((replace(launch, touched={**launch.touched, **given}),))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (2,)
