"""The base of a network in plain PyTorch; code generation copies it into the file."""

from typing import Any

import torch
from torch import nn

from convdsl.runtime.support import Network


class PlainNetwork(Network):
    """Base of a network in plain PyTorch.

    It starts channels last in memory, which its convolutions and poolings are quickest in. Maps
    follow the filters: after ``.to(memory_format=torch.contiguous_format)`` they stay as they come.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for weight in self.parameters():
            if weight.dim() == 4:
                # unlike contiguous(), this gives filters on one channel the strides torch asks for
                weight.data = weight.data.to(memory_format=torch.channels_last)

    def memory_format(self, parameters: list[nn.Parameter]) -> torch.memory_format:
        order = torch.channels_last
        filters = [p for p in parameters if p.dim() == 4]
        if filters and all(weight.is_contiguous(memory_format=order) for weight in filters):
            return order
        return torch.preserve_format
