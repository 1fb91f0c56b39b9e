"""Nodes whose results belong to one sample each -> one kernel that takes samples through them all.

Every program has ``each`` samples and does all of every launch for them, one after the other:

    for tile in range(tl.cdiv(n * 784, 64)):
        conv_forward_at(tile, x_ptr=x_ptr + first * 1024, ..., rows=n * 784, ...)
    tl.debug_barrier()

A launch for some samples is the launch for all of them with its pointers at the first of them, and
``n`` is how many they are. All that the program makes lies in one tensor, value behind value.
Behind a barrier a program sees all that it has stored itself; none reads what another one stores.
Random numbers follow the numbers of elements among all samples, as in the other kernels.
"""

import re
from dataclasses import replace

from convdsl.codegen.at_once import Call, OneKernel, in_triton, with_tensors
from convdsl.codegen.at_place import places
from convdsl.codegen.epilogue import Epilogue, epilogue
from convdsl.codegen.launches import SEED, EmittedLaunch, Kernels
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Value
from convdsl.ir.group import Group
from convdsl.ir.launch import Launch, Size
from convdsl.ir.types import DType, TensorType

NAME = "samples_pass"
#: elements; values begin where wide loads may
ALIGNMENT = 16
#: four warps are one warp group of 64 rows, and tiles for few samples have no more
WARPS = 4


class SamplesPass(OneKernel):
    """each: samples of a program, an expression of ``n``; fixed: what all programs read whole."""

    alone = True
    numbers = ("samples", "each")

    def __init__(
        self,
        kernels: Kernels,
        names: dict[Value, str],
        needed: set[Value],
        fixed: set[Value],
        each: str,
    ) -> None:
        super().__init__(kernels, names, needed)
        self.fixed = {*fixed, SEED}
        self.each = each
        self.shares: list[Value] = []  # with a number of each program
        self.memories: dict[DType, Value] = {}
        self.starts: dict[Value, int] = {}
        self._elements = 0

    def lay_out(self) -> None:
        """All that is made in one tensor for each kind of number, one value behind the other.

        A pointer to each would take more registers than some targets have.
        """
        sizes: dict[DType, int] = {}
        for value in self.made:
            if value not in self.shares:
                kind = value.type.dtype
                self.starts[value] = start = sizes.get(kind, 0)
                sizes[kind] = start + -(-value.type.stored // ALIGNMENT) * ALIGNMENT
        for kind, size in sizes.items():
            name = "kept" if kind is DType.COMPUTE else f"kept_{kind.value}"
            channels = size * 8 if kind is DType.BIT else size
            self.memories[kind] = Value(name, TensorType((channels,), kind))
            self.names[self.memories[kind]] = name

    def memory(self, value: Value) -> Value:
        return self.memories[value.type.dtype] if value in self.starts else value

    def epilogue(self, group: Group) -> Epilogue | None:
        """Its random numbers are those of elements ``seed[1]`` further on."""
        self._elements = group.anchor.output.type.elements
        made = epilogue(group)
        return made and replace(made, body="\n".join(map(_moved, made.body.splitlines())))

    def write(self, launch: Launch, emitted: EmittedLaunch, texts: list[str]) -> None:
        self.calls.append(Call(launch, with_tensors(emitted, self.viewed), self._elements))

    def pointer(self, value: Value) -> str:
        start = super().pointer(self.memory(value))
        if value in self.fixed:
            return start
        if value in self.shares:
            return f"{start} + program"
        elements = value.type.stored
        place = "first" if elements == 1 else f"first * {elements}"
        before = self.starts.get(value, 0)
        return f"{start} + (total * {before} + {place})" if before else f"{start} + {place}"

    def finish(self) -> EmittedLaunch:
        """The kernel of all that came."""
        out = Writer(1)
        out.line("program = tl.program_id(0)")
        out.line("first = program.to(tl.int64) * each")
        out.line("n = tl.minimum(each, samples - program * each)")
        out.line("total = samples.to(tl.int64)")
        comment = ""
        seen = {self.names[value] for value in self.fixed if value in self.names}
        stored: set[str] = set()  # since the last barrier
        for call in self.calls:
            used = {self.names[value] for value in call.tensors}
            if used & stored:
                out.line("tl.debug_barrier()")
                seen |= stored
                stored = set()
            stored |= used - seen
            if call.emitted.comment != comment:
                comment = call.emitted.comment
                out.comment(comment)
            self._loop(out, call)
        doc = [
            '"""Every program takes ``each`` of the samples through the forward pass, the loss and',
            "the gradients of all activations, as launches of these nests would do it for all.",
            '"""',
        ]
        made = self.write_kernel(NAME, doc, self.calls, out)
        numbers = {"samples": Size("n"), "each": Size(self.each)}
        return replace(
            made,
            arguments={**made.arguments, **numbers},
            warps=WARPS,
            comment="forward, loss and gradients of activations",
        )

    def _loop(self, out: Writer, call: Call) -> None:
        """Calls at all places of the launch's grid."""
        nest = call.launch.nest
        at = dict.fromkeys(places(f"kernels.{nest.module}", nest.function), "0")
        loops: list[str] = []
        for axis, count in enumerate(map(in_triton, call.launch.grid)):
            if axis in at and count != "1":
                at[axis] = f"tile_{axis}" if loops else "tile"
                loops.append(f"for {at[axis]} in range({count}):")
        self._nested(out, loops, call, list(at.values()))

    def _nested(self, out: Writer, loops: list[str], call: Call, at: list[str]) -> None:
        if not loops:
            random = call.emitted.arguments.get("seed") is SEED
            self.write_call(out, call, at, f"first * {call.elements}" if random else "")
            return
        out.line(loops[0])
        with out.indent():
            self._nested(out, loops[1:], call, at)


def _moved(line: str) -> str:
    """A line of an epilogue that draws random numbers, for pointers that begin elsewhere."""
    if not re.search(r"\bseed\b", line):
        return line
    return re.sub(r"\boffsets\b", "offsets + seed[1]", re.sub(r"\bseed\b", "seed[0]", line))
