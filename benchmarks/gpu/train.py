"""Training steps: ours and each peer in turn, a pair at a time, and the share of the roofline.

A pair is all that is in memory at once. Ours is timed anew beside every peer; a ratio is of the
medians of its pair. What a step needs at least is by `Network.traffic` over the measured bandwidth
or by its operations over the measured matrix products, whichever takes longer: the backward pass
does the forward pass's operations twice, without the gradient of the network's input.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import convdsl
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.networks import DTYPES, batches, load, peer
from benchmarks.gpu.peers import LEARNING_RATE, MOMENTUM, PEERS, Step, prepare
from convdsl.compiler import Network
from convdsl.ir.op import Layer
from convdsl.tuning.device import Device
from convdsl.tuning.timing import Times, interleave

ROUNDS = 7
#: seconds in which a run is called again and again, in each round
ROUND_SECONDS, QUICK_ROUND_SECONDS = 0.3, 0.005
#: as those of the peers, and one more: ours is captured at its fourth call
WARM_UPS = 5


def train(
    name: str,
    batch: int,
    dtype: str,
    chosen: list[str],
    device: Device,
    budget: Budget,
    quick: bool,
    ceilings: tuple[float | None, float | None],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Time a network; ``save`` gets the record whenever there is more of it.

    ceilings: bytes and operations a second that the device reaches, None where not measured.
    """
    record: dict[str, Any] = {"batch": batch, "dtype": dtype, "peers": {}}
    network = load(name)
    # without ours there is nothing to compare: its kernels may take all the time to compile
    made = budget.attempt(lambda: _ours(network, batch, dtype, device), limit=budget.left)
    if isinstance(made, str):
        save({**record, "skipped": made})
        return
    ours, state, x, y = made
    alone = budget.attempt(lambda: _time({"ours": partial(ours, x, y)}, device, quick)["ours"])
    if isinstance(alone, str):
        save({**record, "skipped": alone})
        return
    record["ours"] = {**summary(alone), "samples_per_s": batch / alone.median}
    record["roofline"] = roofline(network, batch, dtype, *ceilings, alone.median)
    for title in chosen:
        if PEERS[title].needs_cuda and device.type != "cuda":
            record["peers"][title] = {"skipped": "needs a CUDA device"}
        else:
            pair = partial(_pair, title, name, network, dtype, device, ours, state, x, y, quick)
            times = budget.attempt(pair)
            record["peers"][title] = {"skipped": times} if isinstance(times, str) else times
        record["best_peer"] = best_peer(record["peers"])
        device.free()
        save(record)


def summary(times: Times) -> dict[str, Any]:
    """For the JSON file, in seconds."""
    return {"median_s": times.median, "spread": times.spread, "rounds": len(times.rounds)}


def best_peer(peers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The peer that comes closest to ours, or passes it, and how many times faster ours is."""
    timed = {title: found["ratio"] for title, found in peers.items() if "ratio" in found}
    if not timed:
        return None
    title = min(timed, key=lambda each: timed[each])
    return {"name": title, "ratio": timed[title]}


def operations(network: Network, batch: int) -> int:
    """Floating-point operations of the products of a training step; a MAC is two."""
    inputs = set(network.graph.inputs)
    macs = 0
    for node in network.graph.nodes:
        if isinstance(node.op, Layer):
            passes = 2 if inputs.issuperset(node.inputs) else 3
            macs += passes * node.op.macs(*(value.type for value in node.inputs))
    return 2 * macs * batch


def roofline(
    network: Network,
    batch: int,
    dtype: str,
    bandwidth: float | None,
    products: float | None,
    seconds: float,
) -> dict[str, Any]:
    """The least time for the step as emitted, and its share of ``seconds``."""
    moved, done = network.traffic(batch, dtype).total, operations(network, batch)
    found: dict[str, Any] = {"bytes": moved, "operations": done}
    if bandwidth is not None and products is not None:
        least = max(moved / bandwidth, done / products)
        found |= {"least_s": least, "fraction": least / seconds}
    return found


def _ours(
    network: Network, batch: int, dtype: str, device: Device
) -> tuple[Step, dict[str, Tensor], Tensor, Tensor]:
    """Our step, its first weights and the batch that everybody trains on."""
    torch.manual_seed(0)
    ((x, y),) = batches(network, batch, device.type, 1)
    x = x.to(DTYPES[dtype])
    model = network.module(device=device.type, dtype=DTYPES[dtype])
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = convdsl.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    step: Step = model.training_step(optimizer)  # type: ignore[operator]
    for _ in range(WARM_UPS):
        step(x, y)
    return step, state, x, y


def _pair(
    title: str,
    name: str,
    network: Network,
    dtype: str,
    device: Device,
    ours: Step,
    state: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    quick: bool,
) -> dict[str, Any]:
    model = peer(name, network, state, device.type)
    theirs = prepare(PEERS[title], model, DTYPES[dtype], device, x, y)
    times = _time({"ours": partial(ours, x, y), "peer": partial(theirs, x, y)}, device, quick)
    return {
        "ours": summary(times["ours"]),
        "peer": summary(times["peer"]),
        "ratio": times["peer"].median / times["ours"].median,
    }


def _time(
    runs: Mapping[str, Callable[[], object]], device: Device, quick: bool
) -> dict[str, Times]:
    seconds = QUICK_ROUND_SECONDS if quick else ROUND_SECONDS
    return interleave(runs, ROUNDS, clock=device.seconds, round_seconds=seconds)
