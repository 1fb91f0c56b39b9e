"""Convolutions that torch's library does, cuDNN or MIOpen, in the place of our kernels.

Their tensors lie as those of our kernels do, channels last, so nothing is moved. Maps only, with
padding that the library can do.
"""

from dataclasses import dataclass

from convdsl.ir.graph import Graph, Node
from convdsl.ir.group import members
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType
from convdsl.ops._conv_gradients import ConvGradInput, ConvGradWeight
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry, torch_padding


@dataclass(frozen=True)
class Library(Op):
    """What ``op`` does, by a call of torch."""

    op: Op
    geometry: Geometry

    @property
    def title(self) -> str:
        return f"library_{self.op.title}"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return self.op.infer(*operands)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return self.op.reference(*operands)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        return Schedule(())

    def call(self, *operands: str) -> tuple[str, ...]:
        window = self.geometry.window
        options = (
            f"{window.stride}, {torch_padding(window)}, {window.dilation}, False, (0, 0),"
            f" {self.geometry.groups}"
        )
        if isinstance(self.op, ConvGradInput):
            dy, weight = operands
            x = f"{dy}.new_empty(1).expand(n, {', '.join(map(str, self.geometry.x.shape))})"
            return (f"{self._backward(dy, x, _first(weight), options, 0)}.movedim(1, -1)",)
        if isinstance(self.op, ConvGradWeight):
            x, dy = operands
            weight = f"{dy}.new_empty(1).expand{self.geometry.weight}"
            made = self._backward(dy, _first(x), weight, options, 1)
            dw = f"{made}.to(torch.float32, memory_format=torch.channels_last)"
            return (dw, f"{dy}.sum((0, 1, 2), dtype=torch.float32)")[: 1 + self.op.bias]
        x, weight, *bias = operands
        added = f"{bias[0]}.to({x}.dtype)" if bias else "None"
        given = f"{_first(x)}, {_first(weight)}, {added}, {options}"
        return (f"torch.convolution({given}).movedim(1, -1)",)

    def _backward(self, dy: str, x: str, weight: str, options: str, place: int) -> str:
        wanted = tuple(i == place for i in range(3))
        given = f"{_first(dy)}, {x}, {weight}, None, {options}, {wanted}"
        return f"torch.ops.aten.convolution_backward({given})[{place}]"


def convolutions(graph: Graph) -> tuple[int, int]:
    """How many convolutions and gradients of them are kernels of ours, and how many there are."""
    ops = [member.op for node in graph.all_nodes for member in members(node)]
    theirs = sum(isinstance(op, Library) for op in ops)
    ours = sum(isinstance(op, Convolution | ConvGradInput | ConvGradWeight) for op in ops)
    return ours, ours + theirs


def in_library(node: Node) -> Node | None:
    """The node as the library does it; None where it cannot."""
    op = node.op
    if isinstance(op, Convolution) and op.bias != "position":
        geometry = op.geometry(node.inputs[0].type)
    elif type(op) is ConvGradWeight or (type(op) is ConvGradInput and node.parameters):
        geometry = op.geometry
    else:
        return None
    if not geometry.x.is_map or torch_padding(geometry.window) is None:
        return None
    made = Library(op, geometry)
    return Node(made, node.inputs, node.parameters, node.outputs, node.origin)


def _first(stored: str) -> str:
    """Channels first to torch, where they lie."""
    return f"{stored}.movedim(-1, 1)"
