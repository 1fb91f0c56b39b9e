"""A compiled network -> an ``nn.Module`` on a device."""

import os
from typing import Protocol

import torch
from torch import nn

from convdsl.ir.choices import Choices
from convdsl.runtime.load import load_text
from convdsl.runtime.tuned import NAMES, choices_for, subject_of


class Compiled(Protocol):
    """What is needed of `convdsl.compiler.Network`, which stands a floor above."""

    @property
    def name(self) -> str: ...

    @property
    def choices(self) -> Choices: ...

    def chosen(self, choices: Choices) -> "Compiled": ...

    def emit(self, stage: str) -> str: ...


def make_module(
    network: Compiled,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    target: str | None,
    layout: str,
    kernels: str,
) -> nn.Module:
    """See `convdsl.compiler.Network.module`."""
    if kernels not in ("triton", "auto"):
        raise ValueError(f"kernels must be 'triton' or 'auto', got {kernels!r}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if target is None:
        target = "triton" if place.type == "cuda" else "torch"
    if target not in ("triton", "torch"):
        raise ValueError(f"target must be 'triton' or 'torch', got {target!r}")
    if target == "triton" and place.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"target 'triton' needs a CUDA or ROCm device, not {place}: leave target out, or set "
            "TRITON_INTERPRET=1 to run the kernels slowly on the CPU"
        )
    dtype = dtype or torch.float32
    if target == "triton" and place.type == "cuda" and dtype in NAMES and not network.choices:
        network = network.chosen(choices_for(subject_of(place, dtype), library=kernels == "auto"))
    generated = load_text(network.emit(target), f"{network.name}_{target}")
    model: nn.Module = getattr(generated, network.name)(dtype=dtype, device=place, layout=layout)
    return model
