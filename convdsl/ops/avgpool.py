"""AVGPOOL: mean over a sliding window."""

from convdsl.ir.arguments import field, flag
from convdsl.ir.op import op
from convdsl.ops._sum_pooling import SumPooling


@op("AVGPOOL")
class AvgPool(SumPooling):
    """Mean over windows of extent F: W2 = (W1 - F + 2P)/S + 1 (LeCun et al., 1998)."""

    count_pad: bool = field(
        True, convert=flag, doc="whether the mean counts the zeros of the padding"
    )
    aliases = ("AVERAGEPOOL", "AVERAGEPOOLING", "MEANPOOL")
    examples = (
        ("6@6x8", "AVGPOOL"),
        ("3@7x9", "AVGPOOL(3, S=2)"),
        ("3@8x7", "AVGPOOL(3, S=2, P=1, round=ceil)"),
        ("3@8x7", "AVGPOOL(3, S=2, P=1, round=ceil, count_pad=false)"),
        ("2@7x8", "AVGPOOL(3, S=2, P=same)"),
        ("2@7x8", "AVGPOOL(3, S=2, P=same, count_pad=false)"),
        ("5@4x6", "AVGPOOL((1, 2))"),
        ("3@10", "AVGPOOL(3, S=2, P=1, round=ceil, count_pad=false)"),
        ("2@8", "AVGPOOL(4, S=3, P=same, count_pad=false)"),
    )

    @property
    def count(self) -> str:
        return "padded" if self.count_pad else "map"

    def reference(self, *operands: str) -> tuple[str, ...]:
        torch = self.torch

        def mean(x: str) -> str:
            return (
                f"F.avg_pool{self.axes}d({torch.padded(x)}, {torch.arguments()},"
                f" ceil_mode={torch.ceil}, count_include_pad={self.count_pad})"
            )

        (x,) = operands
        if not torch.is_padded_before or self.count_pad:
            return (mean(x),)
        # torch takes explicit zeros for pixels, so their share is divided out
        return (f"{mean(x)} / {mean(f'torch.ones_like({x})')}",)
