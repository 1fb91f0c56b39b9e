"""Several launches -> one kernel that calls their loop nests at places of their grids.

What kernels for samples (`convdsl.codegen.samples_pass`) and for weights (`weights_pass`) have in
common: they collect the launches of nodes as `FunctionBody` makes them, and write calls of the
nests as functions (`at_place`) instead. Tensors are allocated outside.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from convdsl.codegen.at_place import at_place, name_at
from convdsl.codegen.copy_source import definition
from convdsl.codegen.epilogue import Epilogue
from convdsl.codegen.launches import EmittedLaunch, FunctionBody, Kernels
from convdsl.codegen.tensors import tidy
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Given, Launch, Schedule, Size

#: what an argument of a launch is
Argument = Given | tuple[Value, ...]


@dataclass(eq=False)
class Call:
    """A launch that became calls: as its op made it, and as it would be written by itself."""

    launch: Launch
    emitted: EmittedLaunch
    #: elements of a sample of the tensor that the epilogue's offsets number
    elements: int = 0

    @property
    def tensors(self) -> list[Value]:
        """The tensors it is given, each once."""
        found: dict[Value, None] = {}
        for argument in self.emitted.arguments.values():
            for value in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(value, Value):
                    found[value] = None
        return list(found)


class OneKernel(FunctionBody):
    """Takes nodes and schedules; ``made`` are the tensors that are to be allocated for them.

    names: of tensors, on the host and, with ``_ptr`` behind, in the kernel. numbers: the kernel's
    parameters behind the tensors.
    """

    numbers: tuple[str, ...]

    def __init__(self, kernels: Kernels, names: dict[Value, str], needed: set[Value]) -> None:
        super().__init__(Writer(), kernels, names, needed)
        self.made: list[Value] = []
        self.calls: list[Call] = []
        self.viewed: dict[Value, Value] = {}

    def node(self, node: Node) -> None:
        if node.op.is_view(node.inputs[0].type):
            viewed = node.inputs[0]
            self.viewed[node.output] = self.viewed.get(viewed, viewed)
        else:
            super().node(node)

    def allocate(self, value: Value) -> None:
        self.names.setdefault(value, value.name)
        self.made.append(value)

    def schedule(
        self,
        schedule: Schedule,
        comment: str,
        made: Epilogue | None = None,
        prologues: Mapping[Value, Epilogue] = MappingProxyType({}),
    ) -> None:
        """Scratch and launches. There are no prologues."""
        for value in schedule.scratch:
            self.needed.add(value)
            self.allocate(value)
        for launch in schedule.launches:
            self.launch(launch, comment, made)

    def copy(self, module: str, function: str) -> None:
        self.kernels.copier.add_used(module, function)
        self.kernels.at_once.setdefault(name_at(function), at_place(module, function))

    def write(self, launch: Launch, emitted: EmittedLaunch, texts: list[str]) -> None:
        self.calls.append(Call(launch, with_tensors(emitted, self.viewed)))

    def write_call(self, out: Writer, call: Call, places: list[str], moved: str = "") -> None:
        """``transpose_at(place, x_ptr=..., ...)``; moved: where the random numbers begin."""
        texts = list(places)
        nest = call.launch.nest
        for parameter in definition(f"kernels.{nest.module}", nest.function).arguments:
            if parameter == "EPILOGUE":
                text = call.emitted.epilogue or "keep"
            else:
                text = self.in_kernel(call.emitted.arguments[parameter])
            if parameter == "seed" and moved:
                text = f"({text}, {moved})"
            texts.append(f"{parameter}={text}")
        out.call(f"{name_at(nest.function)}(", texts)

    def in_kernel(self, argument: Argument) -> str:
        """An argument as the kernel writes it."""
        if isinstance(argument, tuple):
            inner = ", ".join(map(self.pointer, argument))
            return f"({inner},)" if len(argument) == 1 else f"({inner})"
        if isinstance(argument, Value):
            return self.pointer(argument)
        if isinstance(argument, Size):
            return "0" if argument.text == "seed" else in_triton(argument.text)
        return f'"{argument}"' if isinstance(argument, str) else repr(argument)

    def pointer(self, value: Value) -> str:
        """A tensor as the kernel writes it."""
        return f"{self.names[value]}_ptr"

    def memory(self, value: Value) -> Value:
        """The tensor a value lies in, as the kernel is given it."""
        return value

    def write_kernel(
        self, name: str, doc: list[str], calls: Iterable[Call], body: Writer
    ) -> EmittedLaunch:
        """The kernel ``name`` goes to the file; it is left to launch it with these arguments."""
        inner = tuple(call.emitted for call in calls)
        given = [self.memory(value) for call in calls for value in call.tensors]
        tensors = {f"{self.names[value]}_ptr": value for value in given}
        out = Writer()
        options = ", ".join(f'"{number}"' for number in self.numbers)
        out.line(f"@triton.jit(do_not_specialize=[{options}])")
        out.call(f"def {name}(", [*tensors, *self.numbers], "):")
        with out.indent():
            for line in doc:
                out.line(line)
        self.kernels.at_once[name] = f"{out.text}\n{body.text}"
        return EmittedLaunch(
            self.kernels.part,
            name,
            dict(tensors),
            None,
            max(launch.warps for launch in inner),
            max(launch.stages for launch in inner),
            "",
            {},
            inner=inner,
        )


def with_tensors(launch: EmittedLaunch, others: Mapping[Value, Value]) -> EmittedLaunch:
    """The launch with ``others`` in place of tensors."""

    def other(given: Argument) -> Argument:
        if isinstance(given, tuple):
            return tuple(others.get(value, value) for value in given)
        return others.get(given, given) if isinstance(given, Value) else given

    arguments = {name: other(given) for name, given in launch.arguments.items()}
    touched = {others.get(value, value): count for value, count in launch.touched.items()}
    return replace(launch, arguments=arguments, touched=touched)


def in_triton(size: str) -> str:
    """An expression of ``n`` as a kernel writes it."""
    return tidy(size).replace("triton.", "tl.").replace("max(", "tl.maximum(")
