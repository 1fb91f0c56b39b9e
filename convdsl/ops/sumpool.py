"""SUMPOOL: sum over a sliding window."""

from convdsl.ir.op import op
from convdsl.ops._sum_pooling import SumPooling


@op("SUMPOOL")
class SumPool(SumPooling):
    """Sum over windows of extent F: W2 = (W1 - F + 2P)/S + 1.

    Padding and what a rounded-up last window sees beyond the edge count as zeros.
    """

    aliases = ("SUMPOOLING",)
    examples = (
        ("6@6x8", "SUMPOOL"),
        ("3@7x9", "SUMPOOL(3, S=2, P=1)"),
        ("3@8x7", "SUMPOOL(3, S=2, P=1, round=ceil)"),
        ("2@7x8", "SUMPOOL(3x2, S=1x3, P=same)"),
        ("3@10", "SUMPOOL(3, S=2, P=1, round=ceil)"),
    )

    @property
    def count(self) -> str:
        return "none"

    def reference(self, *operands: str) -> tuple[str, ...]:
        torch = self.torch
        x = torch.padded(operands[0])
        if self.axes == 2:
            options = f"ceil_mode={torch.ceil}, divisor_override=1"
            return (f"F.avg_pool2d({x}, {torch.arguments()}, {options})",)
        # torch's 1-D mean knows no divisor of its own
        (kernel,), (stride,), (start,) = torch.kernel, torch.stride, torch.start
        window = f"(1, {kernel}), (1, {stride}), (0, {start})"
        options = f"ceil_mode={torch.ceil}, divisor_override=1"
        return (f"F.avg_pool2d({x}.unsqueeze(2), {window}, {options}).squeeze(2)",)
