"""Every distinct convolution of a network: our three kernels against cuDNN's, in turn.

The results are compared with float32 before anything is timed; kernels that are wrong get no time.
The L2 cache is emptied before each call, and each call is a CUDA graph, so that launching costs
neither side anything.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.layer import PARTS, Layer, Runs, layers, our_runs, their_runs
from benchmarks.gpu.networks import DTYPES, channels_last, load
from benchmarks.gpu.train import summary
from convdsl.tuning.device import Device
from convdsl.tuning.timing import interleave

ROUNDS = 7
#: seconds of the kernels themselves; emptying the cache takes several times as long
ROUND_SECONDS, QUICK_ROUND_SECONDS = 0.004, 0.001
#: greatest error, in units of the greatest value: products of rounded numbers, rounded again
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def convolutions(
    name: str,
    batch: int,
    dtype: str,
    device: Device,
    budget: Budget,
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Time a network's convolutions; ``save`` gets the record after each."""
    record: dict[str, Any] = {"batch": batch, "dtype": dtype, "layers": {}}
    save(record)
    for layer in layers(load(name)):
        found = budget.attempt(partial(measure, layer, batch, DTYPES[dtype], device))
        made = {"skipped": found} if isinstance(found, str) else found
        record["layers"][layer.title] = {"count": layer.count, **made}
        device.free()
        save(record)


def measure(
    layer: Layer, batch: int, dtype: torch.dtype, device: Device, quick: bool = False
) -> dict[str, Any]:
    """By part: errors, seconds of both, the ratio theirs / ours, operations a second of ours."""
    x, dy, weight, bias = data(layer, batch, dtype, device.type)
    ours, made = our_runs(layer, x, dy, weight, bias)
    theirs, known = their_runs(layer, x, dy, weight, bias)
    exact = _exact(layer, x, dy, weight.to(dtype), bias)
    found: dict[str, Any] = {}
    for part in PARTS:
        wrong = {"ours": error(made[part], exact[part]), "cudnn": error(known[part], exact[part])}
        found[part] = {"error": wrong}
        if not wrong["ours"] <= TOLERANCE[dtype]:
            found[part]["skipped"] = f"our result is wrong by {wrong['ours']:.2g}"
            continue
        found[part] |= _time(ours, theirs, part, device, quick)
        found[part]["rate"] = layer.operations(batch) / found[part]["ours"]["median_s"]
    return found


def data(
    layer: Layer, batch: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Random x, dy, and float32 weight and bias, of which the weight is exact in ``dtype``."""
    g = layer.geometry
    options: dict[str, Any] = {
        "device": device,
        "generator": torch.Generator(device).manual_seed(0),
    }
    x, dy = (
        channels_last(torch.randn(batch, *kind.shape, **options).to(dtype)) for kind in (g.x, g.y)
    )
    fan = g.group_channels * g.taps
    weight = (torch.randn(g.weight, **options) / fan**0.5).to(dtype).float()
    return x, dy, weight, torch.randn(g.weight[0], **options) if layer.bias else None


def error(found: Tensor, exact: Tensor) -> float:
    """The greatest difference, in units of the greatest exact value; NaN is an error."""
    return float((found.float() - exact).abs().max() / exact.abs().max())


def _exact(
    layer: Layer, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """The results in float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        return their_runs(layer, x.float(), dy.float(), weight.float(), bias)[1]
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _time(ours: Runs, theirs: Runs, part: str, device: Device, quick: bool) -> dict[str, Any]:
    runs = {"ours": device.graph(ours[part]), "cudnn": device.graph(theirs[part])}
    times = interleave(
        runs,
        ROUNDS,
        clock=partial(device.seconds, flush=True),
        round_seconds=QUICK_ROUND_SECONDS if quick else ROUND_SECONDS,
    )
    found: dict[str, Any] = {name: summary(taken) for name, taken in times.items()}
    return {**found, "ratio": times["cudnn"].median / times["ours"].median}
