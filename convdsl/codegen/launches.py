"""Nodes -> lines of a forward or backward function: allocate, launch, free.

Every node is seen as a group; a lone node is a group of one. Also records each launch as data,
from which the ahead-of-time builds take what to compile.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from convdsl.codegen.copy_source import Copier, definition, kernel_names
from convdsl.codegen.epilogue import Epilogue, epilogue, prologue
from convdsl.codegen.header import class_name, storage_shape, where
from convdsl.codegen.tensors import box, new_tensor, tidy
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Graph, Node, Places, Value
from convdsl.ir.group import Group, updated
from convdsl.ir.launch import Box, Given, Launch, Schedule, Size, Stride, Tail
from convdsl.ir.types import DType, TensorType

# names that generated functions use for themselves
RESERVED = frozenset(
    """n p ctx seed training dtype weights new infer outputs self keep labels len
    torch triton tl nn Tensor Any ClassVar Sequence Network check_device new_seed
    inputs each function programs loss scale d_loss kept kept_int8 kept_int32 kept_int64
    kept_float32 boxes TensorDescriptor""".split()  # noqa: SIM905
)

#: ends of the names of generated classes
CLASSES = ("Function", "Loss", "Once", "Step")

#: of a step's random numbers: on the device, so that a captured CUDA graph draws new ones
SEED = Value("seed", TensorType((1,), DType.INT64, batched=False))


class Part(Enum):
    """When a launch runs. A training step is FORWARD, LOSS and BACKWARD, in this order, or STEP."""

    INFERENCE = "inference"
    STEP = "step"  # forward, loss and backward at once, where `passes.step_at_once` says so
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    TO_INPUTS = "to inputs"  # gradients of the network's inputs, where somebody asks for them


@dataclass(frozen=True, slots=True)
class EmittedLaunch:
    """One launch as written: arguments by name (``aux`` a tuple of values), EPILOGUE by name.

    A call of a library has no warps, and as arguments what it ``reads`` and what is ``made``.

    prologues: by the hole, ``X_PROLOGUE``. touched: as in `Launch`. inner: what a kernel of several
    launches does, each launch as if it were one by itself; see `convdsl.codegen.at_once`.
    """

    part: Part
    nest: str
    arguments: dict[str, Given | tuple[Value, ...]]
    epilogue: str | None
    warps: int
    stages: int
    comment: str
    touched: Mapping[Value, str]
    prologues: Mapping[str, str] = field(default_factory=dict)
    inner: tuple["EmittedLaunch", ...] = ()

    @property
    def is_ours(self) -> bool:
        """A kernel of ours, not a call of a library."""
        return self.warps > 0

    @property
    def holes(self) -> dict[str, str]:
        """The functions that fill the nest's holes, those that are empty left out."""
        return {**self.prologues, **({"EPILOGUE": self.epilogue} if self.epilogue else {})}


@dataclass
class Kernels:
    """What the file needs beside its functions: copied nests and generated epilogues."""

    copier: Copier = field(default_factory=Copier)
    epilogues: dict[str, str] = field(default_factory=dict)  # name -> body
    comments: dict[str, list[str]] = field(default_factory=dict)  # name -> places it came from
    at_once: dict[str, str] = field(default_factory=dict)  # of a step at once: name -> function
    launches: list[EmittedLaunch] = field(default_factory=list)
    part: Part = Part.INFERENCE  # of the launches that are written next
    boxes: bool = False  # some kernel takes tensor descriptors

    def epilogue(self, made: Epilogue, comment: str) -> str:
        """The name of an epilogue function with this body; equal bodies share one."""
        for helper in made.helpers:
            self.copier.add(f"kernels.{helper.module}", helper.function)
        base = name = made.title
        number = 1
        while self.epilogues.get(name, made.body) != made.body:
            number += 1
            name = f"{base}_{number}"
        self.epilogues[name] = made.body
        places = self.comments.setdefault(name, [])
        if comment not in places:
            places.append(comment)
        return name

    @property
    def epilogue_text(self) -> str:
        """The epilogues, each below the lines it serves."""
        parts = []
        for name, body in self.epilogues.items():
            head = Writer()
            for place in self.comments[name]:
                head.comment(place)
            head.line("@triton.jit")
            head.line(f"def {name}(acc, offsets, column, mask, aux, seed):")
            parts.append(f"{head.text}\n{body}")
        return "\n\n\n".join(parts)


def local_names(graph: Graph) -> dict[Value, str]:
    """A local variable for every value: its own name unless that is taken in generated code."""
    values = [*graph.inputs, *(p.value for p in graph.parameters), *graph.cotangents]
    values += [v for node in graph.all_nodes for v in node.outputs]
    taken = {v.name for v in values}
    name = class_name(graph)
    hidden = RESERVED | kernel_names() | {name, *(f"{name}{part}" for part in CLASSES)}
    names: dict[Value, str] = {}
    for value in values:
        name = value.name
        while (
            name in hidden
            or name.endswith(("_epilogue", "_prologue"))
            or (name != value.name and name in taken)
        ):
            name += "_"
        names[value] = name
    return names


def orders_of_gradients(graph: Graph) -> dict[Value, tuple[int, ...]]:
    """Axes in memory: a gradient lies as its parameter does, for autograd to take without copy."""
    orders = {p.value: p.permute for p in graph.learned if p.permute}
    return {gradient: orders[value] for value, gradient in graph.gradients if value in orders}


class FunctionBody:
    """Writes the lines for a list of nodes into ``out``."""

    #: one program does all of every launch
    alone = False

    def __init__(
        self,
        out: Writer,
        kernels: Kernels,
        names: dict[Value, str],
        needed: set[Value],
        orders: Mapping[Value, tuple[int, ...]] | None = None,
        places: Places | None = None,
    ) -> None:
        """orders: of the axes in memory, for values without a batch that have one of their own.

        places: of the values that have no tensor of their own.
        """
        self.out, self.kernels, self.names, self.needed = out, kernels, names, needed
        self.orders = orders or {}
        self.places = places or Places()
        #: wider tensors whose first channels were made before all of them are
        self.begun: set[Value] = set()

    def nodes(self, nodes: Sequence[Node], keep: set[Value], held: Iterable[Value] = ()) -> None:
        """All nodes in order; values not in ``keep`` are freed after their last reader.

        held: values that are there before the first node, to be freed likewise.
        """
        last: dict[Value, int] = {}
        viewed: dict[Value, Value] = {}
        for place, node in enumerate(nodes):
            for value in (*node.inputs, *node.outputs):
                last[value] = place
                if value in viewed:
                    last[viewed[value]] = place
            if node.op.is_view(node.inputs[0].type):
                viewed[node.output] = viewed.get(node.inputs[0], node.inputs[0])
        made = {value for value in held if value in last}
        for place, node in enumerate(nodes):
            self.node(node)
            in_place = updated(node)
            made.update(v for v in node.outputs if v in self.needed and v not in in_place)
            dead = [v for v in made if last[v] == place and v not in keep]
            made.difference_update(dead)
            if dead and place + 1 < len(nodes):
                self.out.delete(sorted(self.names[v] for v in dead))

    def node(self, node: Node) -> None:
        """The lines of one node; none if nobody reads what it makes."""
        stored = tuple(v for v in node.outputs if v in self.needed)
        if not stored:
            return
        comment = where(node)
        if node.op.is_view(node.inputs[0].type):
            self.out.comment(comment)
            shape = storage_shape(node.output.type)
            source = self.names[node.inputs[0]]
            self.out.line(f"{self.names[node.output]} = {source}.view{shape}")
            return
        place = self.places.of.get(node.output)
        if place is not None and place.whole in node.inputs:  # it lies where its operand does
            self.out.comment(comment)
            self.slice(node.output, place.whole, place.start)
            return
        if (calls := node.op.call(*(self.names[v] for v in node.operands))) is not None:
            self.call(node, calls, comment)
            return
        group = node.op if isinstance(node.op, Group) else Group((node,), stored)
        schedule = group.schedule(node, Tail(group.result))
        if not schedule.launches:  # others have made all of it
            return
        self.out.comment(comment)
        if not group.drops_result:
            self.needed.add(group.result)  # a kernel stores its own result, read or not
        in_place = updated(node)
        self.names.update({new: self.names[old] for new, old in in_place.items()})
        for value in dict.fromkeys((*stored, group.result)):
            if value in self.needed and value not in in_place:
                self.allocate(value)
        prologues = {chain[-1].output: prologue(chain, self.places) for chain in group.prologues}
        schedule = group.schedule(node, Tail(group.result, alone=self.alone))
        self.schedule(schedule, comment, self.epilogue(group), prologues)

    def call(self, node: Node, calls: Sequence[str], comment: str) -> None:
        """``name = torch.convolution(...)``, into the slice it lies in if it has no tensor."""
        self.out.comment(comment)
        for value, expression in zip(node.outputs, calls, strict=True):
            if value not in self.needed:
                continue
            if value in self.places.of:
                self.allocate(value)
                self.out.line(f"{self.names[value]}.copy_({expression})")
            else:
                self.out.assign(self.names[value], expression)
            moved: dict[str, Given | tuple[Value, ...]] = {"reads": node.operands, "made": value}
            self.kernels.launches.append(
                EmittedLaunch(self.kernels.part, node.op.title, moved, None, 0, 0, comment, {})
            )

    def epilogue(self, group: Group) -> Epilogue | None:
        return epilogue(group, self.places)

    def allocate(self, value: Value) -> None:
        """``name = new((n, 28, 28, 6))``; a slice of the tensor it lies in, if it has none."""
        if value in self.begun:
            return
        if (place := self.places.of.get(value)) is not None:
            if place.whole not in self.begun:
                self.allocate(place.whole)
                self.begun.add(place.whole)
            self.slice(value, place.whole, place.start)
            return
        self.out.assign(self.names[value], new_tensor(value.type, order=self.orders.get(value)))

    def slice(self, value: Value, whole: Value, start: int) -> None:
        """``name = whole[..., 64:192]``, where bytes are numbered if they hold bits."""
        each = 8 if value.type.dtype is DType.BIT else 1
        first, end = start // each, (start + value.type.channels) // each
        self.out.line(f"{self.names[value]} = {self.names[whole]}[..., {first}:{end}]")

    def schedule(
        self,
        schedule: Schedule,
        comment: str,
        made: Epilogue | None = None,
        prologues: Mapping[Value, Epilogue] = MappingProxyType({}),
    ) -> None:
        """Scratch, launches, scratch freed. prologues: by the operands that they make."""
        for value in schedule.scratch:
            self.needed.add(value)
            self.names.setdefault(value, value.name)
            self.allocate(value)
        for launch in schedule.launches:
            self.launch(launch, comment, made, prologues)
        if schedule.scratch:
            self.out.delete([self.names[v] for v in schedule.scratch])

    def launch(
        self,
        launch: Launch,
        comment: str,
        made: Epilogue | None,
        prologues: Mapping[Value, Epilogue] = MappingProxyType({}),
    ) -> None:
        """One ``nest[grid](...)`` statement."""
        module, function = f"kernels.{launch.nest.module}", launch.nest.function
        self.copy(module, function)
        has_hole = "EPILOGUE" in definition(module, function).arguments
        name: str | None = None
        aux: tuple[Value, ...] = ()
        if has_hole and made is not None:
            name, aux = self.kernels.epilogue(made, comment), made.aux
        elif has_hole:
            self.kernels.copier.add("kernels.pointwise", "keep")
        before = {
            parameter.rpartition("_")[0]: prologues[value]
            for parameter, argument in launch.arguments.items()
            for value in (argument.value if isinstance(argument, Box) else argument,)
            if isinstance(value, Value) and value in prologues
        }
        bodies = [made.body if made else "", *(given.body for given in before.values())]
        texts = []
        record: dict[str, Given | tuple[Value, ...]] = {}
        fillers: dict[str, str] = {}
        for parameter in definition(module, function).arguments:
            operand, _, hole = parameter.rpartition("_")
            given = before.get(operand.lower())
            if parameter == "aux":
                record["aux"] = aux
                text = self._tuple(aux)
            elif hole == "aux":
                record[parameter] = given.aux if given else ()
                text = self._tuple(given.aux if given else ())
            elif hole == "PROLOGUE":
                if given:
                    text = fillers[parameter] = self.kernels.epilogue(given, comment)
                else:
                    record[parameter], text = None, "None"
            elif parameter == "seed":
                # a number nobody reads: it is not specialised, so any will do
                random = any(re.search(r"\bseed\b", body) for body in bodies)
                record["seed"] = SEED if random else Size("seed")
                text = "seed" if random else "0"
            elif parameter == "EPILOGUE":
                text = name or "keep"
            else:
                argument = launch.arguments[parameter]
                if hole == "ptr" and given:
                    argument = given.tile
                elif isinstance(argument, Box) and given:
                    argument = replace(argument, value=given.tile)
                elif isinstance(argument, Value) and argument not in self.needed:
                    argument = None
                elif isinstance(argument, Stride):
                    source = prologues.get(argument.value)
                    stride = self.places.stride(source.tile if source else argument.value)
                    argument = stride if argument.constant else Size(f"{stride}")
                record[parameter] = argument
                text = self._text(argument)
            texts.append(f"{parameter}={text}")
        emitted = EmittedLaunch(
            self.kernels.part,
            function,
            record,
            name,
            launch.warps,
            launch.stages,
            comment,
            launch.touched,
            fillers,
        )
        self.write(launch, emitted, texts)

    def copy(self, module: str, function: str) -> None:
        """Bring a loop nest into the file."""
        self.kernels.copier.add(module, function)

    def write(self, launch: Launch, emitted: EmittedLaunch, texts: list[str]) -> None:
        """The statement, with ``texts`` for arguments."""
        texts += [f"num_warps={launch.warps}", f"num_stages={launch.stages}"]
        grid = ", ".join(tidy(g) for g in launch.grid) + ("," if len(launch.grid) == 1 else "")
        self.out.call(f"{emitted.nest}[({grid})](", texts)
        self.kernels.launches.append(emitted)

    def _tuple(self, values: Sequence[Value]) -> str:
        inner = ", ".join(self.names[v] for v in values)
        return f"({inner},)" if len(values) == 1 else f"({inner})"

    def _text(self, argument: Given) -> str:
        if isinstance(argument, Value):
            return self.names[argument]
        if isinstance(argument, Box):
            self.kernels.boxes = True
            return box(argument, self.names[argument.value], self.places)
        if isinstance(argument, Size):
            return tidy(argument.text)
        return f'"{argument}"' if isinstance(argument, str) else repr(argument)
