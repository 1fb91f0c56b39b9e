"""Every network of `networks/` takes one training step alike on all targets, at toy width.

The input is that of ``toy`` in networks.json, every width is divided, and dropout is off, since
each target draws its own random numbers; nothing else is changed. Then plain PyTorch and the
interpreted kernels must give the loss, the gradients and the running statistics that torch's
autograd gives in float64 on the graph.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convdsl.compiler import Network
from convdsl.ir.graph import Graph, Output, Value
from convdsl.ir.op import Layer
from convdsl.ir.types import TensorType
from convdsl.lower import Options, lower
from convdsl.ops.dropout import Dropout
from convdsl.reference import run_forward
from convdsl.source import Source
from convdsl.syntax.parser import parse
from tests.empty_cache import empty_cache

ROOT = Path(__file__).parent.parent
FIGURES: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "networks.json").read_text())
TOYS = {name: row["toy"] for name, row in FIGURES.items() if " " not in name}
#: widths are divided by this and rounded up, but stay at least LEAST: of fewer all may be dead
FACTOR, LEAST = 32, 4
BATCH = 2
#: of the largest element of a tensor: plain PyTorch in float64, kernels in float32
TOLERANCES = {"torch": 1e-9, "triton": 1e-3}
#: a gradient of less than this, in units of the largest gradient, is zero but for rounding
VANISHING = 1e-9


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """Generated files go to a folder of their own."""
    with empty_cache():
        yield


def compile_toy(name: str) -> Network:
    """The network on its toy input and at toy width.

    Shape notes tell the shapes of the full size, so they are taken out. Where ``toy`` says
    shallow, every repeat is made once: rounding grows with the depth of batch normalisation
    (Yang et al., "A mean field theory of batch normalization", 2019), and repeats are all alike.
    Where it says net_only, outputs behind the net, which need a large input, are left out.
    """
    path = ROOT / "networks" / f"{name}.cnn"
    text = re.sub(r"::\s*[\w@]+", "", path.read_text("utf-8"))
    if TOYS[name].get("shallow"):
        text = re.sub(r"\*\d+", "", text)
    if TOYS[name].get("net_only"):
        text = re.sub(r"^output [^#]*\Z", "", text, flags=re.M)
    shape = TOYS[name]["input"]
    text = re.sub(r"^(input\s+(?:\w+:\s*)?)[\w@]+", rf"\g<1>{shape}", text, flags=re.M)
    source = Source(str(path), text)
    program = parse(source)
    lowered = lower(program, Options(root=path.parent))
    graph = narrow(lowered.graph)
    return Network(source, program, replace(lowered, graph=graph))


def narrow(graph: Graph) -> Graph:
    """The graph with all numbers of filters and units divided, and without dropout."""
    values = {value: value for value in graph.inputs}
    parameters = {p.value: p for p in graph.parameters}
    nodes = []
    for node in graph.nodes:
        assert isinstance(node.op, Layer)
        op = narrow_layer(node.op)
        inputs = tuple(values[v] for v in node.inputs)
        kinds = [v.type for v in inputs]
        for value, spec in zip(node.parameters, op.parameters(*kinds).values(), strict=True):
            if value not in values:
                kind = TensorType(spec.shape, spec.dtype, batched=False)
                values[value] = Value(value.name, kind)
                made = replace(parameters[value], value=values[value], initializer=spec.initializer)
                parameters[value] = made
        for value, kind in zip(node.outputs, op.infer(*kinds), strict=True):
            values[value] = Value(value.name, kind)
        owned = tuple(values[v] for v in node.parameters)
        outputs = tuple(values[v] for v in node.outputs)
        nodes.append(replace(node, op=op, inputs=inputs, parameters=owned, outputs=outputs))
    return replace(
        graph,
        nodes=tuple(nodes),
        parameters=tuple(parameters.values()),
        outputs=tuple(replace(o, value=values[o.value]) for o in graph.outputs),
        updates=tuple((values[old], values[new]) for old, new in graph.updates),
    )


def narrow_layer(op: Layer) -> Layer:
    """The layer with its argument K, its number of outputs, divided and rounded up."""
    widths = [spec.name for spec in op.arguments() if spec.letter == "K"]
    fewer = {w: min(getattr(op, w), max(LEAST, -(-getattr(op, w) // FACTOR))) for w in widths}
    return replace(op, p=0.0) if isinstance(op, Dropout) else replace(op, **fewer)


@dataclass(frozen=True)
class Given:
    """What the targets start from, in float32: ``state`` holds all tensors of the network by path.

    targets: labels for every head, or the weights of the output's sum where there is no head.
    """

    inputs: list[Tensor]
    state: dict[str, Tensor]
    targets: tuple[Tensor, ...]


@dataclass(frozen=True)
class Step:
    """What a training step works out: the loss, gradients by path, the running statistics."""

    loss: Tensor
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def given(net: Network, batch: int, seed: int = 0) -> Given:
    """Random inputs; weights as He et al. start them, and zero biases and the like shaken a little.

    So signals neither die nor grow in a deep net, and no gradient hides behind a zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    model = net.module(device="cpu", target="torch")
    state = {path: buffer.clone() for path, buffer in model.named_buffers()}
    for path, parameter in model.named_parameters():
        fan_in = parameter[0].numel()
        shaken = parameter.detach() + 0.1 * normal(*parameter.shape).abs()
        he = (2 / fan_in) ** 0.5 * normal(*parameter.shape)
        state[path] = he if parameter.dim() > 1 else shaken
    return Given(
        [normal(batch, *v.type.shape) for v in net.graph.inputs],
        state,
        tuple(target(output, batch, generator) for output in net.graph.outputs),
    )


def target(output: Output, batch: int, generator: torch.Generator) -> Tensor:
    """Random labels that suit the head; without one, a weight for every number of the output."""
    if output.head is None:
        return torch.randn((batch, *output.value.type.shape), generator=generator)
    labels = output.head.labels(output.value.type)
    size = (batch, *labels.shape)
    if labels.kind == "classes":
        return torch.randint(labels.classes, size, generator=generator)
    if labels.kind == "pairs":
        return torch.arange(float(batch))[:, None] % 2
    least, most = labels.least or 0.0, labels.most or 1.0
    return least + (most - least) * torch.rand(size, generator=generator)


def by_oracle(graph: Graph, given: Given) -> Step:
    """By torch's autograd in float64, node by node."""
    learned = {p.path for p in graph.learned}
    state = {k: v.double().requires_grad_(k in learned) for k, v in given.state.items()}
    values = run_forward(graph, [x.double() for x in given.inputs], state, training=True)
    loss = torch.zeros((), dtype=torch.float64)
    for output, y in zip(graph.outputs, given.targets, strict=True):
        x, head = values[output.value], output.head
        scope = {"torch": torch, "F": F, "x": x, "y": y if y.dtype == torch.int64 else y.double()}
        text = "(x * y).sum()" if head is None else f"{head.weight} * {head.loss('x', 'y')}"
        loss = loss + eval(text, scope)
    loss.backward()
    path_of = {p.value: p.path for p in graph.parameters}
    return Step(
        loss.detach(),
        {path: grad for path in sorted(learned) if (grad := state[path].grad) is not None},
        {path_of[old]: values[new].detach() for old, new in graph.updates},
    )


def by_module(net: Network, given: Given, target: str) -> Step:
    """By a generated module: kernels in float32, plain PyTorch in float64.

    How torch rounds float32, which differs with the order in memory, is not what is tested.
    """
    model = net.module(device="cpu", target=target)
    inputs, targets = given.inputs, given.targets
    if target == "torch":
        model.double()
        inputs = [x.double() for x in inputs]
        targets = tuple(y.double() if y.is_floating_point() else y for y in targets)
    saved = model.state_dict().keys()
    model.load_state_dict({path: given.state[path] for path in saved})
    model.train()
    if net.graph.outputs[0].head is not None:
        loss = model(*inputs, targets)
    else:
        loss = (model(*inputs) * targets[0]).sum()
    loss.backward()
    gradients = {path: p.grad for path, p in model.named_parameters() if p.grad is not None}
    return Step(loss.detach(), gradients, {k: b for k, b in model.named_buffers() if k in saved})


def deviations(ours: Step, theirs: Step) -> dict[str, float]:
    """Of every tensor the largest deviation, relative to its own largest element.

    A gradient that is zero but for rounding, as of a bias before BN, is measured by the largest
    gradient instead.
    """
    largest = max(float(g.abs().max()) for g in theirs.gradients.values())
    found = {"loss": float((ours.loss - theirs.loss).abs() / theirs.loss.abs())}
    for mine, wanted in ((ours.gradients, theirs.gradients), (ours.statistics, theirs.statistics)):
        assert mine.keys() == wanted.keys()
        for path, exact in wanted.items():
            size = float(exact.abs().max())
            found[path] = float((mine[path].double() - exact).abs().max())
            found[path] /= largest if size < VANISHING * largest else size
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if toy.get("slow") else [])
        for n, toy in TOYS.items()
    ],
)
def test_a_training_step_is_the_same_on_all_targets(name: str) -> None:
    net = compile_toy(name)
    start = given(net, TOYS[name].get("batch", BATCH), TOYS[name].get("seed", 0))
    exact = by_oracle(net.graph, start)
    assert exact.gradients.keys() == {p.path for p in net.graph.learned}
    assert all(gradient.any() for gradient in exact.gradients.values())
    for target, tolerance in TOLERANCES.items():
        far = {
            name: d
            for name, d in deviations(by_module(net, start, target), exact).items()
            if not d <= tolerance
        }
        assert not far, f"{target}: {far}"
