"""The base of a network in plain PyTorch; code generation copies it into the file."""

from typing import Any, ClassVar

import torch
from torch import nn

from convdsl.runtime.support import Network, parameters_of


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
