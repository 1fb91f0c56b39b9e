"""Graph -> a Triton module that stands alone: loop nests, epilogues, autograd Functions, Module.

Takes the fused training graph and the fused inference graph of one network. The forward and the
backward pass are straight lists of kernel launches on channels-last tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from convdsl.codegen.copy_source import Copier
from convdsl.codegen.header import (
    channels_first,
    channels_last,
    class_head,
    class_name,
    docstring,
)
from convdsl.codegen.heads import emit_heads, emit_results_type
from convdsl.codegen.launches import (
    EmittedLaunch,
    FunctionBody,
    Kernels,
    Part,
    local_names,
    orders_of_gradients,
)
from convdsl.codegen.losses import emit_losses, loss_call
from convdsl.codegen.step import Step
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Output, Parameter, Value
from convdsl.ir.group import members
from convdsl.passes.step_at_once import AtOnce

IMPORTS = """\
from collections import OrderedDict, namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
"""


DESCRIPTOR = "from triton.tools.tensor_descriptor import TensorDescriptor"


@dataclass(frozen=True, slots=True)
class TritonText:
    """The file, and its launches as data for ahead-of-time builds."""

    text: str
    launches: tuple[EmittedLaunch, ...]


def emit_triton(
    training: Graph, inference: Graph, source: str, at_once: AtOnce | None = None
) -> TritonText:
    """The whole file as text; deterministic to the byte. at_once: see `passes.step_at_once`."""
    kernels = Kernels()
    support = Copier()
    support.add("runtime.kernel_weights", "KernelNetwork")
    support.add("runtime.triton_support", "check_device")
    support.add("runtime.triton_support", "refuse_double_backward")
    if _is_random(training) or _is_random(inference):
        support.add("runtime.triton_support", "new_seed")
    functions = Writer()
    weights = _weights(training, inference)
    _infer(inference, weights, functions, kernels)
    functions.line()
    functions.line()
    _function(training, weights, functions, kernels)
    emit_losses(training, functions, kernels)
    step = at_once and Step(training, at_once, kernels)
    if step:
        functions.line()
        functions.line()
        begin = partial(_prologue, training, weights, functions, step.names)
        step.emit(functions, begin)
    module = Writer()
    emit_results_type(training, module)
    _module(training, weights, module)
    with module.indent():
        emit_heads(training, module, partial(loss_call, training))
        if step:
            step.emit_call(module)
    kernels.copier.add("kernels.pointwise", "keep")
    if kernels.boxes:
        support.add("runtime.triton_support", "boxes")
    imports = IMPORTS + (DESCRIPTOR if kernels.boxes else "")
    sections = (
        ("the network, forward and backward", functions.text),
        ("epilogues: what is worked out while a tile is in registers", kernels.epilogue_text),
        ("loop nests, channels last", kernels.copier.text),
        ("a training step in few launches", "\n\n\n".join(kernels.at_once.values())),
        ("what every generated network shares", support.text),
        ("the module", module.text),
    )
    parts = ["\n".join(docstring(training, source, "Fused Triton kernels.")), "", imports.rstrip()]
    for title, text in sections:
        if text:
            parts += ["", f"# ---- {title} " + "-" * (92 - len(title)), "", "", text, ""]
    return TritonText("\n".join(parts), tuple(kernels.launches))


def _weights(*graphs: Graph) -> list[Parameter]:
    """What kernels of the graphs read in the computing type: all but vectors."""
    used = {v for graph in graphs for node in graph.all_nodes for v in node.operands}
    parameters = graphs[0].parameters
    return [p for p in parameters if p.value in used and len(p.value.type.shape) > 1]


def _infer(graph: Graph, weights: list[Parameter], out: Writer, kernels: Kernels) -> None:
    """``infer``: the forward pass when no gradient will be asked for."""
    kernels.part = Part.INFERENCE
    names = local_names(graph)
    used = {v for node in graph.nodes for v in node.operands}
    arguments = [names[v] for v in (*graph.inputs, *(p.value for p in graph.parameters))]
    out.call("def infer(", ["weights", *arguments], "):")
    with out.indent():
        out.line('"""Outputs, channels last; nothing is kept for a backward pass."""')
        _prologue(graph, weights, out, names)
        if _is_random(graph):
            out.line(f"seed = new_seed({names[graph.inputs[0]]}, False)")
        body = FunctionBody(out, kernels, names, used | graph.results(), places=graph.places)
        body.nodes(graph.nodes, graph.results())
        _tuple(out, "return", [names[o.value] for o in graph.outputs])


def _function(graph: Graph, weights: list[Parameter], out: Writer, kernels: Kernels) -> None:
    """The autograd Function of the whole network."""
    names = local_names(graph)
    parameters = [p.value for p in graph.parameters]
    read_back = {v for node in graph.backward for v in node.operands}
    saved = [*graph.saved, *(v for v in parameters if v in read_back)]
    needed = {v for node in graph.all_nodes for v in node.operands} | graph.results()
    kept = ["n", *_mode(graph)]
    out.line(f"class {class_name(graph)}Function(torch.autograd.Function):")
    with out.indent():
        out.line('"""Forward and backward of the whole network as lists of kernel launches."""')
        out.line()
        out.line("@staticmethod")
        arguments = [names[v] for v in (*graph.inputs, *parameters)]
        out.call("def forward(", ["ctx", *_mode(graph), "weights", *arguments], "):")
        kernels.part = Part.FORWARD
        with out.indent():
            _prologue(graph, weights, out, names)
            body = FunctionBody(out, kernels, names, needed, places=graph.places)
            body.nodes(graph.nodes, graph.results() | set(saved))
            out.call("ctx.save_for_backward(", [names[v] for v in saved])
            out.line(", ".join(f"ctx.{k}" for k in kept) + f" = {', '.join(kept)}")
            _tuple(out, "return", [names[o.value] for o in graph.outputs])
        out.line()
        out.line("@staticmethod")
        out.call("def backward(", ["ctx", *(names[v] for v in graph.cotangents)], "):")
        kernels.part = Part.BACKWARD
        with out.indent():
            _backward(graph, out, kernels, names, saved, needed)
    out.line()
    out.line()
    out.line(f"class {class_name(graph)}Once({class_name(graph)}Function):")
    with out.indent():
        out.line('"""With one backward pass: what is saved goes when that has read it."""')
        out.line()
        out.line("clear_saved_tensors_on_access = True")


def _backward(
    graph: Graph,
    out: Writer,
    kernels: Kernels,
    names: dict[Value, str],
    saved: list[Value],
    needed: set[Value],
) -> None:
    out.line("refuse_double_backward()")
    kept = ["n", *_mode(graph)]
    out.line(f"{', '.join(kept)} = " + ", ".join(f"ctx.{k}" for k in kept))
    if saved:
        end = ",) = ctx.saved_tensors" if len(saved) == 1 else ") = ctx.saved_tensors"
        out.call("(", [names[v] for v in saved], end)
    for value in graph.cotangents:
        out.line(f"{names[value]} = {names[value]}.contiguous()")
    out.line(f"new = {names[graph.cotangents[0]]}.new_empty")
    gradients = dict(graph.gradients)
    orders = orders_of_gradients(graph)
    body = FunctionBody(out, kernels, names, needed, orders, graph.places)
    sliced: set[Value] = set()
    for value in dict.fromkeys(v for node in graph.backward for v in node.inputs):
        tensor = graph.places.root(value)
        if tensor != value and tensor in saved:
            body.slice(value, tensor, graph.places.start(value))
            sliced.add(tensor)
    if unread := sliced.difference(v for node in graph.backward for v in node.inputs):
        out.delete(sorted(names[v] for v in unread))
    made = {v for node in graph.backward for v in node.outputs}
    always = graph.toward_parameters
    taken = {id(node) for node in always}
    optional = [node for node in graph.backward if id(node) not in taken]
    late = {v for node in optional for v in node.inputs}
    # slices too, which hold what they are of
    given = [v for node in graph.backward for v in node.inputs]
    held = dict.fromkeys(v for v in (*saved, *given) if v not in made and v not in graph.inputs)
    body.nodes(always, graph.results() | late, held)
    if optional:
        late_results = {v for node in optional for v in node.outputs}
        for value in graph.inputs:
            if gradients.get(value) in late_results:
                out.line(f"{names[gradients[value]]} = None")
        first = len(_mode(graph)) + 1
        places = range(first, first + len(graph.inputs))
        asked = " or ".join(f"ctx.needs_input_grad[{i}]" for i in places)
        out.line(f"if {asked}:")
        kernels.part = Part.TO_INPUTS
        with out.indent():
            body.nodes(optional, graph.results())
    returned = [
        names[gradients[v]] if v in gradients else "None"
        for v in (*graph.inputs, *(p.value for p in graph.parameters))
    ]
    out.call("return (", [*["None"] * (len(_mode(graph)) + 1), *returned])


def _prologue(graph: Graph, weights: list[Parameter], out: Writer, names: dict[Value, str]) -> None:
    """Batch size, the allocator, and weights as the kernels read them in place of the masters."""
    first = names[graph.inputs[0]]
    out.line(f"n = len({first})")
    out.line(f"new = {first}.new_empty")
    if weights:
        read = [names[p.value] for p in weights]
        out.call("(", read, ",) = weights" if len(read) == 1 else ") = weights")


def _module(graph: Graph, weights: list[Parameter], out: Writer) -> None:
    name = class_name(graph)
    names = local_names(graph)
    class_head(graph, "on fused Triton kernels", out, "KernelNetwork")
    with out.indent():
        if weights:
            out.line("WEIGHTS = {")
            with out.indent():
                for weight in weights:
                    axes = weight.permute or tuple(range(len(weight.value.type.shape)))
                    out.line(f'"{weight.path}": {axes},')
            out.line("}")
            out.line()
        arguments = ", ".join(f"{names[v]}: Tensor" for v in graph.inputs)
        out.line(f"def outputs(self, {arguments}) -> tuple[Tensor, ...]:")
        with out.indent():
            first = names[graph.inputs[0]]
            out.line(f"check_device({first}, keep)")
            out.line("p = self.tensors()")
            for value in graph.inputs:
                order = channels_last(value.type)
                out.line(f"{names[value]} = {names[value]}{order}.contiguous()")
            operands = ["weights", *(names[v] for v in graph.inputs), "*p"]
            out.line(f"with torch.cuda.device_of({first}):")
            with out.indent():
                out.line(f"weights = self.kernel_weights(p, {first}.dtype)")
                out.line("if self.training or torch.is_grad_enabled():")
                with out.indent():
                    if _is_random(graph):
                        out.line(f"seed = new_seed({first}, self.training)")
                    mode = ["int(self.training)" if k == "training" else k for k in _mode(graph)]
                    out.line(f"function = {name}Once if self.once else {name}Function")
                    out.call("outputs = function.apply(", [*mode, *operands])
                    kept = [i for i, o in enumerate(graph.outputs) if not o.training_only]
                    if len(kept) < len(graph.outputs):
                        out.line("if not self.training:")
                        with out.indent():
                            _tuple(out, "outputs =", [f"outputs[{i}]" for i in kept])
                out.line("else:")
                with out.indent():
                    out.call("outputs = infer(", operands)
            if len(kept) < len(graph.outputs):
                out.line("if not self.training:")
                with out.indent():
                    _return(out, [o for o in graph.outputs if not o.training_only])
            _return(out, graph.outputs)


def _return(out: Writer, outputs: Sequence[Output]) -> None:
    """Give the local ``outputs``, which are those named, with their channels first."""
    _tuple(
        out,
        "return",
        [f"outputs[{i}]{channels_first(o.value.type)}" for i, o in enumerate(outputs)],
    )


def _mode(graph: Graph) -> list[str]:
    """What the Function is told beside dtype and tensors, where any layer asks for it."""
    random = ["seed"] if _is_random(graph) else []
    return [*random, "training"] if graph.updates else random


def _is_random(graph: Graph) -> bool:
    """Whether a kernel draws random numbers."""
    nodes = [member for node in graph.nodes for member in members(node)]
    return any("seed" in (m.op.expression(*(v.name for v in m.operands)) or "") for m in nodes)


def _tuple(out: Writer, opening: str, names: Sequence[str]) -> None:
    """``return (a, b)``, or ``return (a,)``."""
    if len(names) == 1:
        out.line(f"{opening} ({names[0]},)")
    else:
        out.call(f"{opening} (", names)
