"""The head SOFTMAX: softmax with cross-entropy, trained on logits."""

from typing import ClassVar

from convdsl.ir.graph import Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size
from convdsl.ir.op import Head, ShapeError, head
from convdsl.ir.types import DType, TensorType
from convdsl.ops._rows import row_tile

BLOCK = 1024


@head("SOFTMAX")
class SoftmaxCrossEntropy(Head):
    """L = mean of -log softmax(x)[label] over the batch and, for maps, the pixels (CS231n, 3)."""

    absorbs: ClassVar[str | None] = "SOFTMAX"

    def check(self, output: TensorType) -> None:
        if output.channels < 2:
            raise ShapeError(
                "E215",
                "the softmax of one score is always 1, so there is nothing to learn",
                help="end the net with one score per class, two or more",
            )

    def labels(self, output: TensorType) -> TensorType:
        """Class numbers 0 .. C-1 as int64: one per sample, one per pixel for maps."""
        return TensorType(output.spatial, DType.INT64)

    def loss(self, output: str, labels: str) -> str:
        return f"F.cross_entropy({output}, {labels})"

    def predict(self, output: str) -> str:
        return f"torch.softmax({output}, dim=1)"

    def schedule(self, output: Value, labels: Value, loss: Value, gradient: Value) -> Schedule:
        rows, columns, warps = row_tile(output.type.channels)
        count = f"n * {output.type.pixels}"
        losses = Value(f"{loss.name}_rows", TensorType(output.type.spatial, DType.FLOAT32))
        each = Launch(
            Nest("cross_entropy", "cross_entropy"),
            {
                "x_ptr": output,
                "labels_ptr": labels,
                "losses_ptr": losses,
                "dx_ptr": gradient,
                "rows": Size(count),
                "C": output.type.channels,
                "ROWS": rows,
                "COLS": columns,
            },
            grid=(f"triton.cdiv({count}, {rows})",),
            warps=warps,
        )
        mean = Launch(
            Nest("cross_entropy", "mean"),
            {"x_ptr": losses, "y_ptr": loss, "elements": Size(count), "BLOCK": BLOCK},
            grid=("1",),
        )
        return Schedule((each, mean), scratch=(losses,))
