"""The networks that are trained: batches, synthetic data, modules with equal weights, losses.

Peers are the generated plain PyTorch of the same program: straight lines of ``F.conv2d`` and the
like, which cast every weight once a step as autocast does. Only the small networks are written by
hand (`benchmarks.cpu.peers`): there a step is as long as the host takes to launch it, and the
look-up of weights by name would count against the peer. The checks of labels, for which the host
waits, are left out of every peer.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cpu.peers import PEERS as BY_HAND
from benchmarks.traffic import BATCHES
from convdsl.compiler import Network, compile

ROOT = Path(__file__).parent.parent.parent
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: batches of a quick try
QUICK = {"digits": 8, "lenet5": 4}
#: classes that the synthetic data has, and its noise beside the patterns
CLASSES, NOISE = 10, 0.5

Loss = Callable[[Tensor, Tensor], Tensor]


def batch_of(name: str, given: int | None, quick: bool) -> int:
    """The batch that is asked for, or the network's own."""
    own = {**BATCHES, **QUICK} if quick else {**QUICK, **BATCHES}
    return given or own[name]


def load(name: str) -> Network:
    """A network of ``networks/``."""
    return compile(ROOT / "networks" / f"{name}.cnn")


def batches(network: Network, batch: int, device: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """Fixed data that can be learned: every class is a pattern, seen under noise.

    Maps are float32, channels last; labels of maps are drawn blindly. Raises ValueError for a
    network that is not one input with labels of classes.
    """
    model = network.module(device="cpu", target="torch")
    specs = {spec[:3] for spec in model.LABELS.values()}  # type: ignore[operator]
    shapes = [value.type.shape for value in network.graph.inputs]
    if len(shapes) != 1 or len(specs) != 1 or {kind for kind, *_ in specs} != {"classes"}:
        raise ValueError("only networks of one input and labels of classes have synthetic data")
    ((_, label_shape, classes),) = specs
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device}
    some = min(CLASSES, int(classes))
    patterns = torch.randn(some, *shapes[0], **options)
    made = []
    for _ in range(count):
        y = torch.randint(some, (batch, *label_shape), **options)
        x = NOISE * torch.randn(batch, *shapes[0], **options)
        if not label_shape:
            x += patterns[y]
        made.append((channels_last(x), y))
    return made


def channels_last(tensor: Tensor) -> Tensor:
    """Maps with their channels last in memory; others as they are."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def peer(name: str, network: Network, state: dict[str, Tensor], device: str) -> nn.Module:
    """The network in PyTorch, float32 and channels last, with the weights of ``state``."""
    model: nn.Module
    if name in BY_HAND:
        model = BY_HAND[name]().to(device)
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), state.values(), strict=True):
                parameter.copy_(value)
    else:
        model = network.module(device=device, target="torch")
        model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def loss_of(model: nn.Module, device: str, autocast: torch.dtype | None) -> Loss:
    """The mean loss of a peer on a batch."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        cast = torch.autocast(device, autocast) if autocast else contextlib.nullcontext()
        with cast:
            if not hasattr(model, "LABELS"):
                return F.cross_entropy(model(x), y)
            outputs = dict(zip(model.OUTPUTS, model.outputs(x), strict=True))  # type: ignore
            labels = dict.fromkeys(model.LABELS, y)  # type: ignore[arg-type]
            result: Tensor = model.losses(outputs, labels)  # type: ignore[operator]
            return result

    return loss
