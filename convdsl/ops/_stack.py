"""Tensors without a batch, one behind the other: what layers side by side own, as one tensor."""

from dataclasses import dataclass, replace

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._rows import tile
from convdsl.ops._touched import partly


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
        for number, x in enumerate(node.operands):
            if self.copied is None or number in self.copied:
                made.append(_copy(x, tail.output, start))
            start += x.type.elements
        return Schedule(tuple(made))


def _copy(x: Value, y: Value, start: int) -> Launch:
    """All of ``x`` to the elements of ``y`` from ``start`` on, as one row."""
    size = x.type.elements
    _, columns = tile(size, most=1024)
    return Launch(
        Nest("copy_slice", "copy_slice"),
        {
            "x_ptr": x,
            "y_ptr": y,
            "rows": Size("1"),
            "channels": Size(f"{size}"),
            "x_stride": Size(f"{size}"),
            "x_start": Size("0"),
            "y_stride": Size(f"{size}"),
            "y_start": Size(f"{start}"),
            "ROWS": 1,
            "COLS": columns,
        },
        ("1", str(-(-size // columns))),
        touched=partly(y, size),
    )
