"""ADAPTIVEAVGPOOL: averages over as many windows as the output is to have places."""

from dataclasses import dataclass

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import op
from convdsl.ops._adaptive_pooling import AdaptivePooling, adaptive_launch
from convdsl.ops._map_gradient import MapGradient
from convdsl.ops.avgpool import AvgPool


@op("ADAPTIVEAVGPOOL")
class AdaptiveAvgPool(AdaptivePooling):
    """Mean over windows [floor(i*W1/W2), ceil((i+1)*W1/W2)), i < W2 (He et al., 2014).

    So the output has the given size for an input of any size, as with torch's
    adaptive_avg_pool2d; spatial pyramid pooling has several of them.
    """

    plain = AvgPool
    aliases = ("ADAPTIVEAVERAGEPOOLING", "ADAPTIVEPOOL")
    examples = (
        ("6@14x14", "ADAPTIVEAVGPOOL(4)"),
        ("3@7x8", "ADAPTIVEAVGPOOL(3x5)"),
        ("2@3x2", "ADAPTIVEAVGPOOL(5)"),
        ("130@2x3", "ADAPTIVEAVGPOOL(3x2)"),
        ("3@8x6", "ADAPTIVEAVGPOOL(4x2)"),
        ("3@5x7", "ADAPTIVEAVGPOOL(5x7)"),
        ("3@11", "ADAPTIVEAVGPOOL(4)"),
    )

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"F.adaptive_avg_pool{self.axes}d({operands[0]}, {self.torch_size})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        tensors = {"x_ptr": x, "y_ptr": tail.output}
        return adaptive_launch("adaptive_mean", tensors, x.type, node.output.type, BACK=False)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(AdaptiveAvgPoolGradient(self, x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class AdaptiveAvgPoolGradient(MapGradient):
    """dx from dy: every window hands its share back to each pixel it covers."""

    of: AdaptiveAvgPool

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy = node.inputs[0]
        tensors = {"x_ptr": dy, "y_ptr": tail.output}
        return adaptive_launch("adaptive_mean", tensors, dy.type, self.x, BACK=True)
