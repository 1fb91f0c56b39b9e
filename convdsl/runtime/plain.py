"""The base of a network in plain PyTorch; code generation copies it into the file."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convdsl.runtime.support import Network, parameters_of


def emulated() -> frozenset[torch.dtype]:
    """16-bit types in which this processor's convolutions are not oneDNN's.

    Torch then multiplies number by number, many times slower than in float32.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return frozenset((torch.bfloat16, torch.float16))
    has = torch.ops.mkldnn
    asked = (
        (torch.bfloat16, has._is_mkldnn_bf16_supported),
        (torch.float16, has._is_mkldnn_fp16_supported),
    )
    return frozenset(dtype for dtype, is_supported in asked if not is_supported())


EMULATED = emulated()


class PlainNetwork(Network):
    """Base of a network in plain PyTorch.

    It starts channels last in memory, which most convolutions and poolings are quickest in. Maps
    follow the filters: after ``.to(memory_format=torch.contiguous_format)`` they stay as they come.
    """

    #: filters that lie channels last
    CHANNELS_LAST: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        weights = parameters_of(self)
        for path in self.CHANNELS_LAST:
            # unlike contiguous(), this gives filters on one channel the strides torch asks for
            weights[path].data = weights[path].data.to(memory_format=torch.channels_last)

    def memory_format(self, parameters: dict[str, nn.Parameter]) -> torch.memory_format:
        order = torch.channels_last
        filters = [parameters[path] for path in self.CHANNELS_LAST]
        if filters and all(weight.is_contiguous(memory_format=order) for weight in filters):
            return order
        return torch.preserve_format

    def _outputs(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        """Where a processor would have to emulate the type, float32 between inputs and outputs.

        Not under autocast, nor where parameters are of that type, and running statistics with them.
        """
        first = inputs[0]
        wide = first.dtype in EMULATED and first.device.type == "cpu"
        wide = wide and all(p.dtype == torch.float32 for p in self.every_parameter())
        if not wide or torch.is_autocast_enabled("cpu"):
            return super()._outputs(inputs)
        outputs = super()._outputs([x.float() for x in inputs])
        return {name: y.to(first.dtype) for name, y in outputs.items()}
