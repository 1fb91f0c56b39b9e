"""A group: the nodes that become one kernel, as a node of its own.

The first inner node is the anchor, whose loop nest the kernel is; the others are pointwise nodes
worked out in its epilogue, and at most one max pooling at the end. Passes build groups,
code generation writes their text; neither does the other's work.
"""

from dataclasses import dataclass

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType


@dataclass(frozen=True)
class Group(Op):
    """Inner nodes in order. The group's node lists as outputs those values that are stored."""

    nodes: tuple[Node, ...]
    stored: tuple[Value, ...]

    @property
    def anchor(self) -> Node:
        return self.nodes[0]

    @property
    def title(self) -> str:
        return "_".join(node.op.title for node in self.nodes)

    @property
    def pool(self) -> Node | None:
        """The max pooling that ends the group, if there is one."""
        last = self.nodes[-1]
        return last if len(self.nodes) > 1 and not _is_pointwise(last) else None

    @property
    def steps(self) -> tuple[Node, ...]:
        """The pointwise nodes of the epilogue; a pointwise anchor is its own first step."""
        first = 0 if _is_pointwise(self.anchor) else 1
        return self.nodes[first:-1] if self.pool else self.nodes[first:]

    @property
    def result(self) -> Value:
        """The value the anchor's kernel stores itself; others are stored by the epilogue."""
        return self.nodes[-1].output

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return tuple(value.type for value in self.stored)

    def reference(self, *operands: str) -> tuple[str, ...]:
        raise NotImplementedError("a group is run node by node")

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        """The anchor's launches with the pooling, if any, handed to its kernel."""
        if self.pool is None:
            return self.anchor.op.schedule(self.anchor, Tail(self.result))
        index = self.pool.outputs[1] if self.pool.outputs[1] in self.stored else None
        pool = self.pool.op.pool_window
        return self.anchor.op.schedule(self.anchor, Tail(self.result, pool, index))


def members(node: Node) -> tuple[Node, ...]:
    """The inner nodes of a group; any other node by itself."""
    return node.op.nodes if isinstance(node.op, Group) else (node,)


def updated(node: Node) -> dict[Value, Value]:
    """`Node.updated` of all `members`."""
    return {new: old for member in members(node) for new, old in member.updated.items()}


def _is_pointwise(node: Node) -> bool:
    return node.op.expression(*(value.name for value in node.operands)) is not None
