"""torchinfo's table of a network of torchvision's, as its user makes it: ``main(name, C, H, W)``.

torchvision's wheels fail to import beside another build of torch because two operators that only
detection needs are missing; they are declared without an implementation then.
"""

import sys
from importlib import import_module
from typing import Any

import torch

_DECLARED: list[torch.library.Library] = []  # an operator lives as long as its library


def main(name: str, *size: str) -> None:
    """Print the summary of the network, untrained, for a batch of one of (C, H, W)."""
    from torchinfo import summary

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = getattr(models(), name)(weights=None, **options)
    summary(model, input_size=(1, *map(int, size)), device="cpu")


def models() -> Any:
    """The module ``torchvision.models``."""
    try:
        return import_module("torchvision.models")
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
        for operator in ("nms", "qnms"):
            arguments = "(Tensor dets, Tensor scores, float threshold)"
            library.define(f"{operator}{arguments} -> Tensor")  # type: ignore[no-untyped-call]
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[module]  # halves of the import that failed
        return import_module("torchvision.models")
