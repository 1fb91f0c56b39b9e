"""The networks of torchvision and timm that `networks/` has too, as the oracle of their logits.

torchvision's wheels carry C++ operators built for one build of torch, and `import torchvision`
fails beside another (a CPU build) because two of them are missing. No classification network uses
them, so they are declared, without an implementation, where the import needs it.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DECLARED: list[torch.library.Library] = []  # an operator lives as long as its library


@cache
def torchvision_models() -> Any:
    """The module ``torchvision.models``. Skips the test where torchvision is not installed."""
    try:
        return pytest.importorskip("torchvision.models")
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # halves of the import that failed
        return import_module("torchvision.models")


def _torchvision(name: str, **options: object) -> nn.Module:
    model: nn.Module = getattr(torchvision_models(), name)(weights=None, **options)
    return model


def _timm(name: str) -> nn.Module:
    torchvision_models()  # timm imports torchvision
    model: nn.Module = pytest.importorskip("timm").create_model(name, pretrained=False)
    return model


#: file of `networks/` -> the network as published
PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "alexnet_tv": lambda: _torchvision("alexnet"),
    **{
        name: lambda name=name: _torchvision(name)  # type: ignore[misc]
        for name in ("vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19")
    },
    **{
        f"resnet{depth}": lambda depth=depth: _torchvision(f"resnet{depth}")  # type: ignore[misc]
        for depth in (18, 34, 50, 101, 152)
    },
    "googlenet": lambda: _torchvision("googlenet", init_weights=False),
    "inception_v3": lambda: _torchvision("inception_v3", init_weights=False),
    "inception_v4": lambda: _timm("inception_v4"),
    "xception": lambda: _timm("legacy_xception"),
    "se_resnet50": lambda: _timm("legacy_seresnet50"),
}


def pictures(name: str, batch: int) -> Tensor:
    """Smooth random images of the size the network is published for."""
    size = 299 if "ception" in name else 224
    coarse = torch.randn(batch, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def published(name: str) -> nn.Module:
    """The published network in evaluation mode with every number drawn anew.

    Weights and running statistics keep the activations at about 1 and the logits of two images
    apart, so that a number in the wrong place shows; they differ from channel to channel.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = PUBLISHED[name]()
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            norm.momentum = 1.0  # the statistics of the pictures, that is
        if norms:
            model.train()(pictures(name, 2))
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
            norm.momentum = 0.1
    return model.eval()
