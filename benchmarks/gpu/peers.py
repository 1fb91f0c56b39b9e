"""What ours is timed against: the same training step in PyTorch, set up as its users would.

All have channels-last tensors, cudnn.benchmark and torch's fused SGD with momentum. ``amp`` keeps
float32 weights and casts (what ours does too); ``pure`` keeps the weights themselves in 16 bits. A
CUDA graph holds the whole step, as ours does, and copies its batch in as ours does.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.gpu.networks import Loss, loss_of
from convdsl.tuning.device import Device

Step = Callable[[Tensor, Tensor], Tensor]

#: as in examples of ImageNet training; the rate is small, since the data is synthetic
LEARNING_RATE, MOMENTUM = 0.01, 0.9
#: calls in which whatever is compiled or recorded late comes to rest
WARM_UPS = 4


@dataclass(frozen=True, slots=True)
class Peer:
    """pure: weights in 16 bits. mode: of torch.compile. channels_last: inductor is made to use it
    also where its own count says otherwise, which it does for backward graphs.
    """

    pure: bool = False
    graph: bool = False
    mode: str | None = None
    channels_last: bool = False

    @property
    def needs_cuda(self) -> bool:
        """Whether the way it runs says something on a CUDA device only."""
        return self.graph or self.mode is not None


PEERS = {
    "eager amp": Peer(),
    "eager pure": Peer(pure=True),
    "graph amp": Peer(graph=True),
    "graph pure": Peer(pure=True, graph=True),
    "compile": Peer(mode="default"),
    "compile layout": Peer(mode="default", channels_last=True),
    "max-autotune": Peer(mode="max-autotune"),
    "max-autotune layout": Peer(mode="max-autotune", channels_last=True),
}


def prepare(
    chosen: Peer, model: nn.Module, dtype: torch.dtype, device: Device, x: Tensor, y: Tensor
) -> Step:
    """A step of the peer that has run a few times on the batch: nothing is compiled any more."""
    if chosen.pure:
        model = model.to(dtype)
    loss = loss_of(model.train(), device.type, None if chosen.pure else dtype)
    if chosen.mode is not None:
        torch._dynamo.reset()
        options = {"mode": chosen.mode, "fullgraph": True, "dynamic": False}
        loss = torch.compile(loss, **options)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, fused=True)
    step = eager_step(loss, optimizer)
    with _layout(chosen):
        for _ in range(WARM_UPS):
            step(x, y)
    return _graphed(step, device, x, y) if chosen.graph else step


def eager_step(loss: Loss, optimizer: torch.optim.Optimizer) -> Step:
    """Forward, backward and the optimiser, call by call."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        # memory of a graph that inductor keeps may be written again from here on
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        optimizer.zero_grad(set_to_none=True)
        value = loss(x, y)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.detach()

    return step


def _graphed(step: Step, device: Device, x: Tensor, y: Tensor) -> Step:
    inputs = torch.empty_like(x), torch.empty_like(y)
    for kept, given in zip(inputs, (x, y), strict=True):
        kept.copy_(given)
    replay = device.graph(lambda: step(*inputs))

    def run(x: Tensor, y: Tensor) -> Tensor:
        for kept, given in zip(inputs, (x, y), strict=True):
            kept.copy_(given, non_blocking=True)
        loss = replay()
        assert isinstance(loss, Tensor)
        return loss.clone()

    return run


def _layout(chosen: Peer) -> contextlib.AbstractContextManager[object]:
    if not chosen.channels_last:
        return contextlib.nullcontext()
    import torch._inductor.config as inductor

    return inductor.patch(force_layout_optimization=True)  # type: ignore[no-any-return]
