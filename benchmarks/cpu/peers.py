"""The benchmark's networks as people write them in PyTorch by hand: what ours is measured against.

Layers stand in the order of the programs, so that parameters and buffers pair up in order.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def digits() -> nn.Module:
    """networks/digits.cnn."""
    return nn.Sequential(
        *_conv_pool(1, 16, 3, padding=1),
        *_conv_pool(16, 32, 3, padding=1),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(inplace=True),
        nn.Linear(64, 10),
    )


def lenet5() -> nn.Module:
    """networks/lenet5.cnn."""
    return nn.Sequential(
        *_conv_pool(1, 6, 5, padding=0),
        *_conv_pool(6, 16, 5, padding=0),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(inplace=True),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, 10),
    )


def _conv_pool(channels: int, filters: int, size: int, padding: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(channels, filters, size, padding=padding)
    return conv, nn.ReLU(inplace=True), nn.MaxPool2d(2)


def vgg_cifar() -> nn.Module:
    """benchmarks/networks/vgg_cifar.cnn."""
    layers: list[nn.Module] = []
    channels = 3
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers.append(nn.Conv2d(channels, filters, 3, padding=1))
            layers += [nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


class Basic(nn.Module):
    """A basic residual block, as torchvision's ``BasicBlock``."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != filters:
            conv = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


def resnet18_cifar() -> nn.Module:
    """benchmarks/networks/resnet18_cifar.cnn."""
    stem = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    channels = 64
    for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Basic(channels, filters, stride), Basic(filters, filters, 1)]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


PEERS: dict[str, Callable[[], nn.Module]] = {
    function.__name__: function for function in (digits, lenet5, vgg_cifar, resnet18_cifar)
}
