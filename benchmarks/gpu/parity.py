"""Loss curves over some hundred steps on the same data from the same weights.

Three of them: ours, PyTorch eager under autocast, and PyTorch eager in float32 without TF32, which
the other two are to be held against: rounding to 16 bits moves a curve by itself, so ours may lie
as far from the exact one as autocast does. A network that drops out at random has no such curve.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import convdsl
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.networks import DTYPES, batches, load, loss_of, peer
from benchmarks.gpu.peers import LEARNING_RATE, MOMENTUM, Step, eager_step
from convdsl.compiler import Network
from convdsl.tuning.device import Device

STEPS, QUICK_STEPS = 200, 12
#: different batches, met again and again; a loss is a mean over one round of them
BATCHES = 4

Data = list[tuple[Tensor, Tensor]]


def parity(
    name: str, batch: int, dtype: str, device: Device, budget: Budget, quick: bool
) -> dict[str, Any]:
    """The three curves and how far two of them are from the exact one."""
    network = load(name)
    if "new_seed(" in network.emit("triton"):
        return {"skipped": "it draws random numbers, which differ from PyTorch's"}
    steps = QUICK_STEPS if quick else STEPS
    record: dict[str, Any] = {"batch": batch, "dtype": dtype, "steps": steps}
    curves: dict[str, list[float]] = {}
    made = budget.attempt(lambda: _start(network, batch, device))
    if isinstance(made, str):
        return {**record, "skipped": made}
    data, state = made
    for title in ("float32", "amp", "ours"):
        run = partial(_curve, title, name, network, state, dtype, data, device, steps)
        curve = budget.attempt(run)
        device.free()
        if isinstance(curve, str):
            return {**record, "curves": curves, "skipped": f"{title}: {curve}"}
        curves[title] = curve
    return {**record, "curves": curves, **compare(curves)}


def compare(curves: dict[str, list[float]]) -> dict[str, Any]:
    """Mean distances from the float32 curve, and the last losses; all of smoothed curves."""
    smooth = {title: smoothed(curve) for title, curve in curves.items()}
    exact = smooth["float32"]
    gaps = {
        f"gap_{title}": fmean(abs(a - b) for a, b in zip(smooth[title], exact, strict=True))
        for title in ("amp", "ours")
    }
    return {"first": exact[0], "last": {t: c[-1] for t, c in smooth.items()}, **gaps}


def smoothed(curve: list[float]) -> list[float]:
    """Means over rounds of the batches."""
    return [fmean(curve[i : i + BATCHES]) for i in range(0, len(curve), BATCHES)]


def _start(network: Network, batch: int, device: Device) -> tuple[Data, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = network.module(device=device.type, target="torch")
    return batches(network, batch, device.type, BATCHES), model.state_dict()


def _curve(
    title: str,
    name: str,
    network: Network,
    state: dict[str, Tensor],
    dtype: str,
    data: Data,
    device: Device,
    steps: int,
) -> list[float]:
    compute = torch.float32 if title == "float32" else DTYPES[dtype]
    cast = [(x.to(compute), y) for x, y in data]
    step: Step
    if title == "ours":
        model = network.module(device=device.type, dtype=compute)
        model.load_state_dict(state)
        optimizer = convdsl.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
        step = model.training_step(optimizer)  # type: ignore[operator]
    else:
        model = peer(name, network, state, device.type).train()
        loss = loss_of(model, device.type, None if title == "float32" else compute)
        step = eager_step(loss, torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM))
    with _exact():
        losses = [step(*cast[number % len(cast)]) for number in range(steps)]
        return [float(loss) for loss in torch.stack(losses).tolist()]


@contextmanager
def _exact() -> Iterator[None]:
    """float32 is float32: TF32 off, as it is in our kernels."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
