"""Pooling by weighted sums: mean, sum, weighted mean and L2 norm share one nest and its gradient.

What they differ in is a weight per place of the window, whether squares are summed and what the
sum is divided by (``COUNT`` of ``kernels/pool.py``).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.arguments import shared_arguments
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import Window
from convdsl.ir.types import TensorType
from convdsl.ops._map_gradient import MapGradient
from convdsl.ops._pooling import Pooling, pooling_launch
from convdsl.ops._window import over_a_map


@shared_arguments
class SumPooling(Pooling):
    """Base of the pooling layers that are linear: operands (x[, weight])."""

    @property
    @abstractmethod
    def count(self) -> str:
        """What the sum is divided by, the nest's ``COUNT``."""

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, weight = node.inputs[0], next(iter(node.parameters), None)
        tensors = {"x_ptr": x, "w_ptr": weight, "y_ptr": tail.output}
        window = self.window(x.type)
        y = node.output.type
        return sum_launch("sum_pool", tensors, x.type, y, window, self.count, NORM=False)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        gradient = SumPoolingGradient(self, x.type)
        (dx,) = build.add(gradient, dy, parameters=node.parameters, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class SumPoolingGradient(MapGradient):
    """dx from (dy[, weight]): every window hands its share back to each pixel it covers."""

    of: SumPooling

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, weight = node.inputs[0], next(iter(node.parameters), None)
        tensors = {
            "dy_ptr": dy,
            "w_ptr": weight,
            "x_ptr": None,
            "y_ptr": None,
            "dx_ptr": tail.output,
        }
        window, count = self.of.window(self.x), self.of.count
        return sum_launch("sum_pool_gradient", tensors, self.x, dy.type, window, count)


def sum_launch(
    function: str,
    tensors: Mapping[str, Argument],
    large: TensorType,
    small: TensorType,
    window: Window,
    count: str,
    **constants: Argument,
) -> Schedule:
    """`pooling_launch` of a sum, which may be divided by the extent its windows have."""
    over_map = over_a_map(window)
    (_, bottom), (_, right) = over_map.padding
    if count in ("map", "padded") and _stays_inside(large, small, window):
        count = "full"
    more = {"PB": bottom, "PR": right, "COUNT": count, **constants}
    return pooling_launch(Nest("pool", function), tensors, large, small, window, **more)


def _stays_inside(large: TensorType, small: TensorType, window: Window) -> bool:
    """No window leaves the map, so that all have their whole extent."""
    return not any(map(any, window.padding)) and all(
        (count - 1) * stride + kernel <= size
        for size, count, kernel, stride in zip(
            large.spatial, small.spatial, window.kernel, window.stride, strict=True
        )
    )
