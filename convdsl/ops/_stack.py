"""Tensors without a batch, one behind the other: what layers side by side own, as one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._touched import partly

#: operands that one launch copies, and elements that one of its programs does
AT_ONCE, BLOCK = 4, 1024


@dataclass(frozen=True)
class Stack(Op):
    """The operands along their first axis, which is the outer one in memory too.

    copied: those that do not lie in the output already, by number (see
    `convdsl.passes.place_slices`); None: all.
    """

    copied: tuple[int, ...] | None = None

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        first, *rest = operands[0].shape
        total = first + sum(kind.shape[0] for kind in operands[1:])
        # vectors of parameters are never rounded
        dtype = operands[0].dtype if rest else DType.FLOAT32
        return (replace(operands[0], shape=(total, *rest), dtype=dtype),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (f"torch.cat([{', '.join(operands)}])",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        made: list[Launch] = []
        start = 0
        for first in range(0, len(node.operands), AT_ONCE):
            some = range(first, min(first + AT_ONCE, len(node.operands)))
            sizes = [node.operands[i].type.elements for i in some]
            copied = {i for i in some if self.copied is None or i in self.copied}
            if copied:
                operands = [node.operands[i] if i in copied else None for i in some]
                made.append(_copy(operands, sizes, tail.output, start))
            start += sum(sizes)
        return Schedule(tuple(made))


def _copy(operands: Sequence[Value | None], sizes: Sequence[int], y: Value, start: int) -> Launch:
    """The operands to the elements of ``y`` from ``start`` on, and past the absent ones."""
    given: dict[str, Argument] = {"y_ptr": y, "start": Size(f"{start}"), "BLOCK": BLOCK}
    end = 0
    for number in range(AT_ONCE):
        given[f"x{number}_ptr"] = operands[number] if number < len(operands) else None
        end += sizes[number] if number < len(sizes) else 0
        given[f"end{number}"] = Size(f"{end}")
    count = sum(x.type.elements for x in operands if x)
    grid = (str(-(-end // BLOCK)),)
    return Launch(Nest("stack", "stack"), given, grid, touched=partly(y, count))
