"""The autograd Function of a training step in a handful of launches, from inputs and labels.

    forward     one kernel takes samples through the network, the loss and the gradients of all
                activations; the next ones sum over the batch: gradients of parameters, the loss
    backward    one kernel scales the gradients by the loss's own

Written beside the Function of the network, for graphs that `passes.step_at_once` lets through.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from convdsl.codegen.header import channels_last, class_name
from convdsl.codegen.launches import (
    SEED,
    EmittedLaunch,
    Kernels,
    Part,
    local_names,
    orders_of_gradients,
)
from convdsl.codegen.losses import D_LOSS, LOSS, SCALE
from convdsl.codegen.samples_pass import SamplesPass
from convdsl.codegen.tensors import new_tensor
from convdsl.codegen.weights_pass import WeightsPass
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Value
from convdsl.ir.head import LossValues
from convdsl.ir.launch import Argument, Launch, Nest, Size
from convdsl.ir.types import DType, TensorType
from convdsl.passes.step_at_once import AtOnce

#: parts of a program's loss that are added at a time
BLOCK = 128


class Step:
    """Both halves of a step in the making."""

    def __init__(self, graph: Graph, plan: AtOnce, kernels: Kernels) -> None:
        kernels.part = Part.STEP
        self.graph, self.kernels = graph, kernels
        (self.output,) = graph.outputs
        assert self.output.head is not None
        kind = self.output.head.labels(self.output.value.type)
        self.names = local_names(graph)
        self.names |= {LOSS: "loss", SCALE: "scale", D_LOSS: "d_loss", SEED: "seed"}
        self.labels = Value("labels", kind.type)
        self.names[self.labels] = "labels"
        parameters = {p.value for p in graph.parameters}
        self.gradients = {v: g for v, g in graph.gradients if v in parameters}
        self.orders = orders_of_gradients(graph)
        needed = {v for node in (*graph.nodes, *plan.samples, *plan.weights) for v in node.operands}
        needed |= {*self.gradients.values(), *graph.cotangents, LOSS, SCALE, self.labels}
        needed |= {self.output.value, *(p.value for p in self.output.constants)}
        self.samples = SamplesPass(kernels, self.names, needed, parameters, plan.each)
        self.samples.nodes(graph.nodes, set())
        mean = self._loss(plan.count)
        self.samples.nodes(plan.samples, set())
        before = {*parameters, *graph.inputs, self.labels, D_LOSS, *self.samples.made}
        self.weights = WeightsPass(kernels, self.names, needed, before)
        self.weights.viewed = self.samples.viewed
        self.weights.nodes(plan.weights, set())
        self.weights.allocate(LOSS)
        self.weights.allocate(SCALE)
        self.weights.launch(mean, f"{self.output.name}, {self.output.head.name}", None)
        self.weights.scale(self._final, SCALE, D_LOSS)

    def _loss(self, programs: str) -> Launch:
        """The head's launch goes to the samples; that of the mean is given back.

        A program has several parts of the loss, for it has several rows: it adds them up.
        """
        head = self.output.head
        assert head is not None
        (cotangent,) = self.graph.cotangents
        self.samples.allocate(cotangent)
        constants = tuple(p.value for p in self.output.constants)
        values = LossValues(self.output.value, self.labels, LOSS, SCALE, cotangent, constants)
        schedule = head.schedule(values)
        each, mean = schedule.launches
        comment = f"{self.output.name}, {head.name}"
        self.samples.needed.update(schedule.scratch)
        for value in schedule.scratch:
            self.samples.allocate(value)
        self.samples.launch(each, comment, None)
        given: dict[str, Argument] = {"parts": Size(programs)}
        for name in ("sums_ptr", "weights_ptr"):
            parts = mean.arguments[name]
            if isinstance(parts, Value):
                kind = TensorType((1,), DType.FLOAT32)  # there are no more programs than samples
                share = given[name] = Value(f"{parts.name}_added", kind)
                self.samples.needed.add(share)
                self.samples.allocate(share)
                self.samples.shares.append(share)
                self.samples.launch(_add_up(parts, share, each.grid[0]), comment, None)
        touched = {v: programs for v in given.values() if isinstance(v, Value)}
        return replace(mean, arguments={**mean.arguments, **given}, touched=touched)

    def emit(self, out: Writer, begin: Callable[[], None]) -> None:
        """The Function. ``begin`` writes the first lines of its forward part."""
        graph, names = self.graph, self.names
        self.samples.lay_out()
        samples = self.samples.finish()
        *waves, last = self.weights.finish()
        later = {names[v] for launch, _ in (*waves, last) for v in _tensors(launch)}
        kept = [v for v in _tensors(last[0]) if v not in {*self.gradients.values(), D_LOSS}]
        out.line(f"class {class_name(graph)}Step(torch.autograd.Function):")
        with out.indent():
            out.line('"""Mean loss of inputs and labels; the gradients come with it."""')
            out.line()
            out.line("@staticmethod")
            arguments = [*self._mode, "weights", *(names[v] for v in self._given)]
            out.call("def forward(", ["ctx", *arguments], "):")
            with out.indent():
                begin()
                out.line(f"each = {self.samples.each}")
                out.line("programs = triton.cdiv(n, each)")
                self._allocate(out, [*self.samples.memories.values(), *self.samples.shares])
                self._launch(out, samples, "programs")
                for value, start in self.samples.starts.items():
                    if names[value] in later:
                        memory = names[self.samples.memory(value)]
                        out.line(f"{names[value]} = {memory}[n * {start} :]")
                self._allocate(out, [v for v in self.weights.made if v not in self._final])
                for launch, programs in waves:
                    self._launch(out, launch, programs)
                out.call("ctx.save_for_backward(", [names[v] for v in kept])
                out.line("ctx.n = n")
                out.line("return loss")
            out.line()
            out.line("@staticmethod")
            out.line("def backward(ctx, d_loss):")
            with out.indent():
                out.line("refuse_double_backward()")
                out.line("n = ctx.n")
                end = ",) = ctx.saved_tensors" if len(kept) == 1 else ") = ctx.saved_tensors"
                out.call("(", [names[v] for v in kept], end)
                out.line("new = d_loss.new_empty")
                self._allocate(out, self._final)
                self._launch(out, *last)
                results = [self.gradients.get(v) for v in self._given]
                none = ["None"] * (len(self._mode) + 1)
                texts = ["None" if v is None else names[v] for v in results]
                out.call("return (", [*none, *texts])

    def emit_call(self, out: Writer) -> None:
        """The module's method that takes this way where it may."""
        names, head = self.names, self.output.head
        assert head is not None
        inputs = [names[v] for v in self.graph.inputs]
        asked = [f"{name}.requires_grad" for name in inputs]
        out.line()
        out.line("def loss_at_once(")
        out.line("    self, inputs: list[Tensor], labels: dict[str, Tensor]")
        out.line(") -> Tensor | None:")
        with out.indent():
            out.call("(", inputs, ",) = inputs" if len(inputs) == 1 else ") = inputs")
            out.line("if not self.training or not torch.is_grad_enabled():")
            out.line("    return None")
            out.line(f"if {' or '.join(asked)}:")
            out.line("    return None")
            out.line(f"check_device({inputs[0]}, keep)")
            for value in self.graph.inputs:
                order = channels_last(value.type)
                out.line(f"{names[value]} = {names[value]}{order}.contiguous()")
            kind = head.labels(self.output.value.type)
            order = "" if kind.kind == "classes" else channels_last(kind.type)
            out.line(f'y = labels["{self.output.name}"]{order}.contiguous()')
            out.line(f"with torch.cuda.device_of({inputs[0]}):")
            with out.indent():
                if self._mode:
                    out.line(f"seed = new_seed({inputs[0]}, True)")
                out.line("p = self.tensors()")
                out.line(f"weights = self.kernel_weights(p, {inputs[0]}.dtype)")
                arguments = [*self._mode, "weights", *inputs, "y", "*p"]
                out.call(f"loss = {class_name(self.graph)}Step.apply(", arguments)
            out.line("return loss" if head.weight == 1.0 else f"return {head.weight!r} * loss")

    @property
    def _mode(self) -> list[str]:
        """What the Function is told before all else."""
        random = (call.emitted.arguments.get("seed") is SEED for call in self.samples.calls)
        return ["seed"] if any(random) else []

    @property
    def _given(self) -> list[Value]:
        """The tensors the Function is given."""
        return [*self.graph.inputs, self.labels, *(p.value for p in self.graph.parameters)]

    @property
    def _final(self) -> list[Value]:
        """What the backward pass makes."""
        return list(dict.fromkeys(self.gradients.values()))

    def _allocate(self, out: Writer, values: Sequence[Value]) -> None:
        for value in values:
            shape = None
            if value in self.samples.shares:
                shape = "(programs,)"
            elif value in self.samples.memories.values():  # one value behind the other
                shape = f"(n * {value.type.stored},)"
            made = new_tensor(value.type, shape, self.orders.get(value))
            out.assign(self.names[value], made)

    def _launch(self, out: Writer, launch: EmittedLaunch, programs: str) -> None:
        texts = []
        for name, given in launch.arguments.items():
            if isinstance(given, Value):
                texts.append(f"{name}={self.names[given]}")
            elif isinstance(given, Size):
                texts.append(f"{name}={'each' if name == 'each' else given.text}")
        texts += [f"num_warps={launch.warps}", f"num_stages={launch.stages}"]
        out.comment(launch.comment)
        out.call(f"{launch.nest}[({programs},)](", texts)
        self.kernels.launches.append(launch)


def _tensors(launch: EmittedLaunch) -> list[Value]:
    return [given for given in launch.arguments.values() if isinstance(given, Value)]


def _add_up(parts: Value, total: Value, count: str) -> Launch:
    """``total`` = the sum of the ``count`` parts of a program."""
    return Launch(
        Nest("losses", "add_up"),
        {"parts_ptr": parts, "total_ptr": total, "parts": Size(count), "BLOCK": BLOCK},
        grid=("1",),
        touched={parts: count, total: "1"},
    )
