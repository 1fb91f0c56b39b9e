"""One convolution of a network -> its kernels as they are launched, and PyTorch's on the same data.

The convolution is compiled as a network of its own, so without what a real network fuses into it.
Its launches are recorded while its autograd Function runs once and can then be made again, on the
same tensors and without the casts of the weights around them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.networks import channels_last
from convdsl.codegen.launches import Part
from convdsl.codegen.triton_module import emit_triton
from convdsl.compiler import Network
from convdsl.ir.graph import Graph, Node, Output
from convdsl.ops._conv_layer import Convolution
from convdsl.ops._convolution import Geometry
from convdsl.pipeline import INFERENCE_PIPELINE, PIPELINE, run_passes
from convdsl.runtime.load import load_text

#: what is timed, by when its launches run
PARTS = {
    "forward": Part.FORWARD,
    "grad weight": Part.BACKWARD,
    "grad input": Part.TO_INPUTS,
}
Runs = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Layer:
    """A convolution over maps that a network has ``count`` times."""

    graph: Graph
    geometry: Geometry
    bias: bool
    count: int

    @property
    def title(self) -> str:
        """``64@56x56 -> 256, 1x1``, and what is not usual."""
        g = self.geometry
        size = "x".join(map(str, g.window.kernel))
        text = f"{g.x.channels}@{g.x.height}x{g.x.width} -> {g.y.channels}, {size}"
        if g.window.stride != (1, 1):
            text += f" /{'x'.join(map(str, sorted(set(g.window.stride))))}"
        return text + (f" in {g.groups} groups" if g.groups > 1 else "")

    def operations(self, batch: int) -> int:
        """Of the forward pass, and of each gradient."""
        g = self.geometry
        return 2 * batch * g.y.elements * g.group_channels * g.taps


def layers(network: Network) -> list[Layer]:
    """The distinct convolutions over maps, in order."""
    found: dict[object, list[Node]] = {}
    for node in network.graph.nodes:
        if isinstance(node.op, Convolution) and len(node.op.kernel) == 2:
            geometry = node.op.geometry(node.inputs[0].type)
            found.setdefault((geometry, bool(node.op.bias)), []).append(node)
    return [_layer(network.graph, nodes) for nodes in found.values()]


def _layer(graph: Graph, nodes: list[Node]) -> Layer:
    node = nodes[0]
    assert isinstance(node.op, Convolution)
    parameters = tuple(p for p in graph.parameters if p.value in node.parameters)
    alone = Graph(
        "Layer",
        graph.notation,
        node.inputs,
        parameters,
        (node,),
        (Output("output", node.output),),
    )
    geometry = node.op.geometry(node.inputs[0].type)
    return Layer(alone, geometry, len(parameters) > 1, len(nodes))


def our_runs(
    layer: Layer, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Runs, dict[str, Tensor]]:
    """Our launches by part, and what they make. Weights are float32, as masters are."""
    graph = layer.graph
    training, inference = run_passes(graph, PIPELINE), run_passes(graph, INFERENCE_PIPELINE)
    made = emit_triton(training, inference, "layer")
    module = load_text(made.text, "layer")
    model = module.Layer(dtype=x.dtype, device=x.device)
    with torch.no_grad():
        given = [weight] if bias is None else [weight, bias]
        for parameter, value in zip(model.parameters(), given, strict=True):
            parameter.copy_(value)
    x = x.detach().requires_grad_()
    model(x).backward(dy)  # compiles the kernels
    x.grad = None
    model.zero_grad()
    log: list[Callable[[], object]] = []
    expected = [launch for launch in made.launches if launch.part in PARTS.values()]
    with _recorded(module, {launch.nest for launch in expected}, log):
        y = model(x)
        y.backward(dy)
    if len(log) != len(expected):
        raise RuntimeError(f"{len(log)} launches were made, {len(expected)} are in the text")
    steps: dict[Part, list[Callable[[], object]]] = {}
    for launch, call in zip(expected, log, strict=True):
        steps.setdefault(launch.part, []).append(call)
    results = {"forward": y.detach(), "grad weight": model.get_parameter(_path(graph)).grad}
    assert x.grad is not None
    runs = {name: _in_order(steps[part]) for name, part in PARTS.items()}
    return runs, {**results, "grad input": x.grad}


def their_runs(
    layer: Layer, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Runs, dict[str, Tensor]]:
    """PyTorch's convolution by part, and what it makes; weights in the type of ``x``.

    Raises ValueError where the padding is another on either side, which torch pads in a pass of
    its own.
    """
    g = layer.geometry
    if any(before != after for before, after in g.window.padding):
        raise ValueError("PyTorch has no convolution with this padding")
    stride, dilation = list(g.window.stride), list(g.window.dilation)
    pad = [before for before, _ in g.window.padding]
    weight = channels_last(weight.to(x.dtype))
    bias = None if bias is None else bias.to(x.dtype)

    def gradient(*mask: bool) -> tuple[Any, ...]:
        arguments = (stride, pad, dilation, False, [0, 0], g.groups, list(mask))
        sizes = None if bias is None else list(bias.shape)
        gradients = torch.ops.aten.convolution_backward(dy, x, weight, sizes, *arguments)
        return tuple(gradients)

    def forward() -> Tensor:
        return torch.conv2d(x, weight, bias, stride, pad, dilation, g.groups)

    runs: Runs = {
        "forward": forward,
        "grad weight": lambda: gradient(False, True, bias is not None)[1],
        "grad input": lambda: gradient(True, False, False)[0],
    }
    return runs, {name: run() for name, run in runs.items()}  # type: ignore[misc]


def _path(graph: Graph) -> str:
    return graph.parameters[0].path


def _in_order(calls: list[Callable[[], object]]) -> Callable[[], object]:
    def run() -> None:
        for call in calls:
            call()

    return run


class _Recorder:
    """Stands for a kernel in a generated module: launches it and writes down how."""

    def __init__(self, nest: Any, log: list[Callable[[], object]]) -> None:
        self.nest, self.log = nest, log

    def __getitem__(self, grid: Any) -> Callable[..., object]:
        def launch(**arguments: Any) -> object:
            def again() -> object:
                return self.nest[grid](**arguments)

            self.log.append(again)
            return again()

        return launch


@contextmanager
def _recorded(module: Any, nests: set[str], log: list[Callable[[], object]]) -> Iterator[None]:
    names = vars(module)
    before = {name: names[name] for name in (*nests, "check_device")}
    names.update({name: _Recorder(names[name], log) for name in nests})
    names["check_device"] = lambda x, kernel: None  # it looks what the kernel is
    try:
        yield
    finally:
        names.update(before)
