"""Adds typed nodes to a growing list, with a fresh, readable name for every value."""

from convdsl.ir.graph import Node, Origin, Value
from convdsl.ir.op import Op
from convdsl.ir.types import TensorType


class Builder:
    """Collects nodes in order. ``origin`` is given to every node added until it is changed."""

    def __init__(self, taken: set[str] | None = None) -> None:
        self.nodes: list[Node] = []
        self.origin = Origin()
        self._taken = taken if taken is not None else set()
        self._next: dict[str, int] = {}

    def value(self, name: str, kind: TensorType) -> Value:
        """A new value; a name already in use gets a number behind it."""
        base, fresh = name, name
        while fresh in self._taken:
            self._next[base] = self._next.get(base, 1) + 1
            fresh = f"{base}_{self._next[base]}"
        self._taken.add(fresh)
        return Value(fresh, kind)

    def add(
        self, op: Op, *inputs: Value, parameters: tuple[Value, ...] = (), names: tuple[str, ...]
    ) -> tuple[Value, ...]:
        """Append ``op`` applied to ``inputs``; returns its outputs, named by ``names``."""
        types = op.infer(*(v.type for v in (*inputs, *parameters)))
        if len(types) != len(names):
            raise ValueError(f"{op.title} has {len(types)} outputs, got names {names}")
        outputs = tuple(self.value(n, t) for n, t in zip(names, types, strict=True))
        self.nodes.append(Node(op, inputs, parameters, outputs, self.origin))
        return outputs
