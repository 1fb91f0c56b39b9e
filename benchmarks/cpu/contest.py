"""One network, precision and part -> runs of ours and of every peer, which are shown to agree.

A run is one inference of a batch or one training step (loss, gradients, SGD with momentum). Ours
is as the README shows it, ``net.fold(model)`` and ``model.training_step(convdsl.SGD(...))``, the
peers' as torch's tutorials have it. All start from the same parameters and see the same batch, each
in the dtype and memory format it reads best, made before the clock starts. Like is compared with
like:

- ``fp32``: everything in float32;
- ``bf16``: float32 parameters, computing in bfloat16; the peers do it by ``torch.autocast``;
- ``pure``: parameters in bfloat16 too, so that small updates are lost, in ours as in the peers.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import environ
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convdsl
from benchmarks.cpu.peers import PEERS

ROOT = Path(__file__).parent.parent
FILES = {
    "digits": ROOT.parent / "networks" / "digits.cnn",
    "lenet5": ROOT.parent / "networks" / "lenet5.cnn",
    "vgg_cifar": ROOT / "networks" / "vgg_cifar.cnn",
    "resnet18_cifar": ROOT / "networks" / "resnet18_cifar.cnn",
}
PRECISIONS = ("fp32", "bf16", "pure")
PARTS = ("training", "inference")
#: how a module is run: as it is, or by torch.compile with its default settings
WAYS = ("eager", "compiled")
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
#: by precision: the largest deviation of losses, and of logits in units of their norm
TOLERANCES = {"fp32": 1e-3, "bf16": 0.05, "pure": 0.05}
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed."""

    network: str
    precision: str
    part: str
    batch: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A module, what of it is called with (x, labels or None), and its batch."""

    name: str
    module: nn.Module
    call: Callable[[Tensor, Tensor | None], Tensor]
    x: Tensor

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")


def can_compile() -> bool:
    """Is there the C++ compiler that torch.compile needs on a CPU?"""
    return shutil.which(environ.get("CXX", "g++")) is not None


def contenders(case: Case, ways: tuple[str, ...] = WAYS) -> Iterator[Contender]:
    """Ours, and the peers in both memory formats, each the given ways."""
    network = convdsl.compile(FILES[case.network])
    torch.manual_seed(0)
    start = network.module(device="cpu", target="torch")
    x = torch.randn(case.batch, *network.graph.inputs[0].type.shape)
    parameter = torch.bfloat16 if case.precision == "pure" else torch.float32
    for way in ways:
        dtype = torch.float32 if case.precision == "fp32" else torch.bfloat16
        ours = network.module(device="cpu", target="torch", dtype=dtype)
        ours.load_state_dict(start.state_dict())
        ours.to(parameter)
        if case.part == "inference":
            ours = network.fold(ours)
        if way == "compiled":
            ours.compile()
        given = x.to(dtype, memory_format=torch.channels_last)
        yield Contender(f"ours {way}", _in_part(ours, case), _ours(ours), given)
    for way in ways:
        for name, memory_format in FORMATS.items():
            peer = PEERS[case.network]()
            copy_tensors(start, peer)
            # the stubs do not know this form of the call
            peer.to(dtype=parameter, memory_format=memory_format)  # type: ignore[call-overload]
            run = torch.compile(peer) if way == "compiled" else peer
            call = _peer(run, case.precision == "bf16")
            given = x.to(parameter, memory_format=memory_format)
            yield Contender(f"{way} {name}", _in_part(peer, case), call, given)


def _in_part(module: nn.Module, case: Case) -> nn.Module:
    return module.train(case.part == "training")


def _ours(model: nn.Module) -> Callable[[Tensor, Tensor | None], Tensor]:
    def call(x: Tensor, labels: Tensor | None) -> Tensor:
        result: Tensor = model(x) if labels is None else model(x, labels)
        return result

    return call


def _peer(
    run: Callable[[Tensor], Tensor], autocast: bool
) -> Callable[[Tensor, Tensor | None], Tensor]:
    def call(x: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = run(x)
        return logits if labels is None else F.cross_entropy(logits.float(), labels)

    return call


def copy_tensors(ours: nn.Module, peer: nn.Module) -> None:
    """Parameters and running statistics of ours into the peer, in order.

    Raises ValueError if they do not pair up.
    """
    named = [(n, t) for n, t in peer.named_buffers() if not n.endswith("num_batches_tracked")]
    sides = ((ours.named_parameters(), peer.named_parameters()), (ours.named_buffers(), named))
    for mine, theirs in sides:
        for (name, a), (other, b) in zip(mine, theirs, strict=True):
            if a.shape != b.shape:
                raise ValueError(f"{name} is {tuple(a.shape)}, {other} is {tuple(b.shape)}")
            b.data.copy_(a.data)


def make_run(contender: Contender, case: Case) -> Callable[[], Tensor]:
    """The loss before a training step, or the logits."""
    call, x = contender.call, contender.x
    if case.part == "inference":

        @torch.no_grad()
        def infer() -> Tensor:
            return call(x, None)

        return infer
    labels = torch.arange(case.batch) % 10
    make = convdsl.SGD if contender.is_ours else torch.optim.SGD
    optimizer = make(contender.module.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    if contender.is_ours:
        whole = contender.module.training_step(optimizer)  # type: ignore[operator]
        return lambda: whole(x, labels)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = call(x, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def check_agreement(runs: dict[str, Callable[[], Tensor]], case: Case) -> None:
    """Run each twice; ValueError unless both losses, or the logits, are those of the first run."""
    wanted: Tensor | None = None
    for name, run in runs.items():
        # two steps: the second loss depends on the gradients and the optimiser
        found = torch.stack([run(), run()]).double()
        wanted = found if wanted is None else wanted
        far = float((found - wanted).norm() / wanted.norm())
        if not far <= TOLERANCES[case.precision]:
            raise ValueError(
                f"{case.network} {case.precision} {case.part}: {name} is {far:.1%} off"
            )
