"""Launches that sum over the batch -> kernels whose programs are those of several launches.

    place = tl.program_id(0)
    if place < 160:
        conv_grad_weight_at(place % 5, place // 5, ...)
    elif place < 163:
        matmul_at(place - 160, ...)

Launches that read what others of them make come in a later kernel. The last kernel comes with the
backward pass: it multiplies the gradients of the parameters by the loss's own gradient and scale,
where it adds up their partial sums or else by a launch more.
"""

import re
from dataclasses import replace

from convdsl.codegen.at_once import Call, OneKernel, in_triton, with_tensors
from convdsl.codegen.at_place import places
from convdsl.codegen.launches import EmittedLaunch, Kernels
from convdsl.codegen.losses import scaled_launch
from convdsl.codegen.writer import Writer
from convdsl.ir.graph import Value
from convdsl.ir.launch import Launch, Nest, Size, worked_out

SUM = Nest("reduce", "sum_partials")
NAME, LAST = "weights_pass", "scaling_pass"
#: what the kernels say of themselves: the last one, and the others
DOC = {
    False: '"""Every program is one of a launch that sums over all samples, for parameters."""',
    True: '"""Every program is one of a launch that makes gradients of parameters final."""',
}
#: the batch size in an expression
_N = re.compile(r"\bn\b")


class WeightsPass(OneKernel):
    """``before``: tensors that are there before."""

    numbers = ("samples",)

    def __init__(
        self, kernels: Kernels, names: dict[Value, str], needed: set[Value], before: set[Value]
    ) -> None:
        super().__init__(kernels, names, needed)
        self.before = before
        self.wave_of: dict[Value, int] = {}
        self.waves: dict[int, list[Call]] = {}

    def write(self, launch: Launch, emitted: EmittedLaunch, texts: list[str]) -> None:
        """Into the wave behind all that make what it reads."""
        call = Call(launch, with_tensors(emitted, self.viewed))
        self.calls.append(call)
        made = [v for v in call.tensors if v not in self.before]
        wave = 1 + max((self.wave_of.get(value, 0) for value in made), default=0)
        for value in made:
            self.wave_of.setdefault(value, wave)
        self.waves.setdefault(wave, []).append(call)

    def scale(self, gradients: list[Value], scale: Value, factor: Value) -> None:
        """Make all gradients final: times ``scale`` and ``factor``, behind all others."""
        readers = {value: [c for c in self.calls if value in c.tensors] for value in gradients}
        last: list[Call] = []
        for value in gradients:
            (maker, *others) = readers[value]
            results = [v for v in maker.tensors if v in readers]
            if maker.launch.nest == SUM and all(readers[v] == [maker] for v in results):
                last.append(maker)
                continue
            raw = Value(f"{value.name}_unscaled", value.type)
            self.needed |= {raw, value, scale, factor}
            self.names[raw] = f"{self.names[value]}_unscaled"
            self.made.append(raw)
            self.wave_of[raw] = self.wave_of.pop(value)
            for reader in (maker, *others):
                reader.emitted = with_tensors(reader.emitted, {value: raw})
            self.launch(scaled_launch(raw, scale, factor, value), maker.emitted.comment, None)
            last.append(self.calls[-1])
        end = max(self.waves)
        for wave in self.waves.values():
            wave[:] = [call for call in wave if call not in last]
        for call in last:
            if call.launch.nest == SUM:
                factors = {"scale_ptr": scale, "factor_ptr": factor}
                arguments = {**call.emitted.arguments, **factors}
                call.emitted = replace(call.emitted, arguments=arguments)
            if call not in self.waves[end]:
                self.waves[end].append(call)

    def finish(self) -> list[tuple[EmittedLaunch, str]]:
        """The kernels in order, each with its number of programs; the last is the one that scales.

        It is the only one that is given what `scale` was.
        """
        made = []
        waves = sorted(wave for wave, calls in self.waves.items() if calls)
        for number, wave in enumerate(waves, start=1):
            name = NAME if number == 1 else f"{NAME}_{number}"
            made.append(self._kernel(LAST if wave == waves[-1] else name, self.waves[wave]))
        return made

    def _kernel(self, name: str, calls: list[Call]) -> tuple[EmittedLaunch, str]:
        out = Writer(1)
        out.line("place = tl.program_id(0)")
        if any(_counts_samples(call) for call in calls):
            out.line("n = samples")
        before: list[str] = []
        for number, call in enumerate(calls):
            start = _sum(before)
            grid = [f"({size})" if " " in size else size for size in call.launch.grid]
            before.append(" * ".join(size for size in grid if size != "1") or "1")
            out.line(f"{'elif' if number else 'if'} place < {in_triton(_sum(before))}:")
            with out.indent():
                out.comment(call.emitted.comment)
                self.write_call(out, call, _at(call, start))
        doc = [DOC[name == LAST]]
        emitted = self.write_kernel(name, doc, calls, out)
        arguments = {**emitted.arguments, "samples": Size("n")}
        title = "gradients of parameters" + (", scaled" if name == LAST else "")
        return replace(emitted, arguments=arguments, comment=title), _sum(before)


def _at(call: Call, start: str) -> list[str]:
    """The place in the call's grid of the program ``place``, of which ``start`` come before."""
    nest, grid = call.launch.nest, [in_triton(size) for size in call.launch.grid]
    asked = places(f"kernels.{nest.module}", nest.function)
    rest = "place" if start == "0" else f"place - {in_triton(start)}"
    at = dict.fromkeys(asked, "0")
    wide = [axis for axis, size in enumerate(grid) if size != "1"]
    for axis in wide:
        if axis != wide[-1]:
            inner = f"({rest})" if " " in rest else rest
            at[axis], rest = f"{inner} % {grid[axis]}", f"{inner} // {grid[axis]}"
        else:
            at[axis] = rest
    return [at[axis] for axis in asked]


def _sum(sizes: list[str]) -> str:
    """The sum of sizes, those that are numbers worked out."""
    known = sum(worked_out(size, 0) for size in sizes if not _N.search(size))
    texts = [size for size in sizes if _N.search(size)]
    return " + ".join([*([str(known)] if known or not texts else []), *texts])


def _counts_samples(call: Call) -> bool:
    sizes = [a.text for a in call.emitted.arguments.values() if isinstance(a, Size)]
    return any(_N.search(text) for text in (*sizes, *call.launch.grid))
