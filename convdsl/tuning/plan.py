"""Compiled networks -> the distinct kernels that a device would have to build.

Takes the launches a network records beside its generated text and cuts each kernel's source, the
loop nest with its helpers and its epilogue, out of that text. What a launch is specialised on is
what Triton's own launcher would see: pointers are 16-byte aligned, integers that are 16-fold for
every batch size are known to be. The batch itself is taken to be any number. Imports neither torch
nor triton and compiles nothing.
"""

import ast
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from convdsl.codegen.launches import EmittedLaunch
from convdsl.compiler import Network
from convdsl.ir.graph import Value
from convdsl.ir.launch import Box, Size
from convdsl.ir.types import DType

IMPORTS = "import triton\nimport triton.language as tl\n"
NO_EPILOGUE = "keep"

#: the type of an argument: ``*bf16``, ``tensordesc<bf16[64,32]>``, ``i32``, ``constexpr``, or a
#: tuple of pointer types
Kind = str | tuple[str, ...]
Constant = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a kernel: its type, its value if a constant, and whether 16 divides it."""

    name: str
    kind: Kind
    value: Constant = None
    divisible: bool = False


@dataclass(frozen=True, slots=True)
class Kernel:
    """One build: everything the compiled code depends on but the target.

    source: a complete Triton module. epilogue: the function that fills the ``EPILOGUE`` hole, None
    without one; prologues: (hole, function) of the others. ``title`` says what they do, for people:
    equal kernels may differ in it.
    """

    source: str
    nest: str
    arguments: tuple[Argument, ...]
    epilogue: str | None
    warps: int
    stages: int
    title: str = field(default="", compare=False)
    prologues: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Of all that is compiled, comments and docstrings aside."""
        parts = (self.nest, self.arguments, self.epilogue, self.warps, self.stages)
        text = f"{bare(self.source)}\n{parts!r}{self.prologues or ''}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def bare(source: str) -> str:
    """A module without comments, docstrings and its own line breaks."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.unparse(tree)


@dataclass(frozen=True, slots=True)
class Definition:
    """A top-level definition of generated text; for functions, parameters and constant ones."""

    text: str
    uses: frozenset[str]
    parameters: tuple[str, ...] = ()
    constants: frozenset[str] = frozenset()


@cache
def definitions(text: str) -> dict[str, Definition]:
    """The functions and constants of a generated module by name, in order; classes are left out.

    Definitions are taken to be two blank lines apart: networks share most of those stretches, and
    each is parsed once.
    """
    stretches = re.split(r"\n\n\n(?=\S)", text)
    found: dict[str, Definition] = {}
    for stretch in stretches:
        if not stretch.startswith("class "):
            found |= _definitions(stretch)
    return found


@cache
def _definitions(stretch: str) -> dict[str, Definition]:
    lines = stretch.splitlines()
    found: dict[str, Definition] = {}
    for node in ast.parse(stretch).body:
        uses = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            body = "\n".join(lines[first - 1 : node.end_lineno])
            constants = (
                a.arg
                for a in node.args.args
                if a.annotation is not None and ast.unparse(a.annotation) == "tl.constexpr"
            )
            names = tuple(a.arg for a in node.args.args)
            found[node.name] = Definition(body, uses, names, frozenset(constants))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            found[ast.unparse(target)] = Definition(body, uses)
    return found


def cut_out(text: str, *names: str) -> str:
    """A module of the named definitions and all they use, the same whatever stands around them."""
    known = definitions(text)
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += known.keys() & known[name].uses
    return "\n\n\n".join([IMPORTS, *(known[name].text for name in sorted(wanted)), ""])


def kernels(network: Network, dtype: str = "bf16") -> dict[Kernel, None]:
    """The distinct kernels of a network that computes in ``dtype`` (bf16, fp16 or fp32)."""
    text, launches = network.triton.text, network.triton.launches
    masters = {p.value for p in network.graph.parameters if len(p.value.type.shape) <= 1}
    name = network.graph.name
    return dict.fromkeys(
        kernel_of(launch, text, masters, dtype, name) for launch in launches if launch.is_ours
    )


def kernel_of(
    launch: EmittedLaunch, text: str, masters: set[Value], dtype: str, network: str
) -> Kernel:
    """The build of one launch of generated text. masters: parameters that stay float32."""
    nest = definitions(text)[launch.nest]
    arguments = []
    for name in nest.parameters:
        if name == "EPILOGUE" or name in launch.prologues:
            continue
        argument = launch.arguments[name]
        if isinstance(argument, tuple):
            pointers = tuple(_pointer(v, masters, dtype) for v in argument)
            arguments.append(Argument(name, pointers, divisible=True))
        elif isinstance(argument, Value):
            pointer = _pointer(argument, masters, dtype)
            arguments.append(Argument(name, pointer, divisible=True))
        elif isinstance(argument, Box):
            element, sizes = _pointer(argument.value, masters, dtype)[1:], list(argument.block)
            arguments.append(Argument(name, f"tensordesc<{element}{sizes}>".replace(" ", "")))
        elif isinstance(argument, Size):
            arguments.append(_integer(name, argument))
        elif argument is None or name in nest.constants:
            arguments.append(Argument(name, "constexpr", argument))
        else:
            raise TypeError(f"{launch.nest}: {name} is no tl.constexpr but gets {argument!r}")
    given = tuple(arguments)
    fillers = dict(launch.prologues)
    if "EPILOGUE" in nest.parameters:
        fillers["EPILOGUE"] = launch.epilogue or NO_EPILOGUE
    source = cut_out(text, launch.nest, *fillers.values())
    # networks number their epilogues: equal bodies shall be equal kernels
    names = {function: hole.lower() for hole, function in fillers.items()}
    for function, name in names.items():
        source = source.replace(f"def {function}(", f"def {name}(")
    titles = (re.sub(r"_(pro|epi)logue.*", "", function) for function in launch.holes.values())
    prologues = tuple((hole, names[launch.prologues[hole]]) for hole in launch.prologues)
    epilogue = names.get(fillers.get("EPILOGUE", ""))
    # kernels of several launches have next to nothing that is told them apart by
    title = f"of {network}" if launch.inner else " ".join(titles)
    return Kernel(
        source, launch.nest, given, epilogue, launch.warps, launch.stages, title, prologues
    )


def _pointer(value: Value, masters: set[Value], dtype: str) -> str:
    """Vectors of parameters stay float32 masters; weights are cast to the computing dtype."""
    if value in masters:
        return "*fp32"
    names = {
        DType.COMPUTE: dtype,
        DType.FLOAT32: "fp32",
        DType.INT8: "i8",
        DType.INT32: "i32",
        DType.INT64: "i64",
        DType.BIT: "u8",
    }
    return f"*{names[value.type.dtype]}"


def _integer(name: str, size: Size) -> Argument:
    """A run-time integer as Triton specialises it: 1 is a constant, multiples of 16 are known."""
    always_one, divisible = _known(size.text)
    return Argument(name, "constexpr", 1) if always_one else Argument(name, "i32", None, divisible)


@cache
def _known(size: str) -> tuple[bool, bool]:
    """Whether an expression of the batch size n is always 1, and whether 16 always divides it."""
    # polynomials of n and quotients of them by powers of two: what holds of the first is the rule
    scope = {"seed": 2**31 - 1, "training": 3, "triton": _Division}
    code = compile(size, "<size>", "eval")
    values = [eval(code, {"n": n, **scope}) for n in range(1, 513)]
    return set(values) == {1}, all(value % 16 == 0 for value in values)


class _Division:
    """The part of the name ``triton`` that sizes use."""

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        return -(-a // b)


def plan(networks: Iterable[tuple[str, Network]], dtype: str = "bf16") -> dict[Kernel, list[str]]:
    """Every distinct kernel with the names of the networks that launch it; names may repeat."""
    users: dict[Kernel, dict[str, None]] = {}
    for name, network in networks:
        for kernel in kernels(network, dtype):
            users.setdefault(kernel, {})[name] = None
    return {kernel: list(names) for kernel, names in users.items()}
