"""WEIGHTEDPOOL: weighted mean over a sliding window, the middle counting most."""

from math import comb, prod

from convdsl.ir.graph import Role
from convdsl.ir.op import Initializer, ParameterSpec, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._axes import axes_of
from convdsl.ops._sum_pooling import SumPooling


@op("WEIGHTEDPOOL")
class WeightedPool(SumPooling):
    """Mean with weights that fall with the distance from the window's centre.

    The weights are fixed and sum to 1: along each axis the binomial numbers
    w[i] = (F-1)! / (i! (F-1-i)! 2^(F-1)), so 1/4 1/2 1/4 for F=3, and their products in two
    dimensions (Goodfellow, Bengio and Courville, 2016, section 9.3; weights of Zhang, 2019).
    Padding and what a rounded-up last window sees beyond the edge count as zeros.
    """

    aliases = ("BLURPOOL", "GAUSSIANPOOL")
    examples = (
        ("6@6x8", "WEIGHTEDPOOL"),
        ("3@7x9", "WEIGHTEDPOOL(3, S=2, P=1)"),
        ("3@8x6", "WEIGHTEDPOOL(3, S=2, round=ceil)"),
        ("2@7x8", "WEIGHTEDPOOL(5x2, S=1x3, P=same)"),
        ("3@10", "WEIGHTEDPOOL(3, S=2, P=1, round=ceil)"),
    )

    @property
    def count(self) -> str:
        return "none"

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        kernel, _ = self.sizes(axes_of(inputs[0]))
        weights = [1.0]
        for size in kernel:
            weights = [w * b for w in weights for b in binomial(size)]
        start = Initializer("values", tuple(weights))
        spec = ParameterSpec(kernel, start, role=Role.CONSTANT, dtype=DType.FLOAT32)
        return {"weight": spec}

    def macs(self, *inputs: TensorType) -> int:
        kernel, _ = self.sizes(axes_of(inputs[0]))
        return self.shape(*inputs).elements * prod(kernel)

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        kernel, _ = self.sizes(axes_of(inputs[0]))
        window = "*".join(map(str, kernel))
        channels, *sizes = self.shape(*inputs).shape
        places = "*".join(map(str, (*sizes, channels)))
        names = ("FH*FW", "H2*W2*C") if len(kernel) == 2 else ("F", "L2*C")
        return (
            "parameters = 0: the weights are fixed",
            f"MACs = {names[0]} * {names[1]} = {window} * {places} = {self.macs(*inputs):,}",
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        (x, weight), torch = operands, self.torch
        padded, crop = torch.padded(x), ""
        if torch.ceil:
            # room for one more window on each axis, and torch's rule which of them are left out
            room = [size for step in reversed(torch.stride) for size in (0, step - 1)]
            starts = [
                f":-(-({x}.shape[{axis}] + {start}) // {step})"
                for axis, (start, step) in enumerate(zip(torch.start, torch.stride, strict=True), 2)
            ]
            padded, crop = f"F.pad({padded}, {tuple(room)})", f"[:, :, {', '.join(starts)}]"
        channels = f"{x}.shape[1]"
        sizes = ", ".join(str(size) for size in torch.kernel)
        filters = f"{weight}.to({x}.dtype).expand({channels}, 1, {sizes})"
        options = f"stride={torch.stride}, padding={torch.start}, groups={channels}"
        return (f"F.conv{self.axes}d({padded}, {filters}, {options}){crop}",)


def binomial(size: int) -> list[float]:
    """``size`` binomial numbers that sum to 1."""
    return [comb(size - 1, i) / 2 ** (size - 1) for i in range(size)]
