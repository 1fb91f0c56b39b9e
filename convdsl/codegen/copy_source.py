"""Copy real functions and classes, with all they call, out of our modules into generated text.

Loop nests (`convdsl.kernels`) and the support code (`convdsl.runtime.support`) are ordinary,
tested Python; a generated file carries copies of what it uses. Reads source text only, so
neither torch nor triton is imported.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Definition:
    """A top-level function, class or constant: its text and the names it uses."""

    name: str
    text: str
    uses: frozenset[str]
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleText:
    definitions: dict[str, Definition]
    imports: dict[str, str]  # local name -> convdsl module it comes from


@cache
def read_module(module: str) -> ModuleText:
    """Definitions of ``convdsl.<module>`` by name, in order."""
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    definitions: dict[str, Definition] = {}
    imports: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convdsl."):
            for alias in node.names:
                imports[alias.asname or alias.name] = (node.module or "").removeprefix("convdsl.")
            continue
        arguments: tuple[str, ...] = ()
        first = node.lineno
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
            first = min([first, *(d.lineno for d in node.decorator_list)])
            if isinstance(node, ast.FunctionDef):
                arguments = tuple(a.arg for a in node.args.args)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        uses = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name)) - {name}
        body = "\n".join(lines[first - 1 : node.end_lineno])
        definitions[name] = Definition(name, body, uses, arguments)
    return ModuleText(definitions, imports)


def definition(module: str, name: str) -> Definition:
    """One definition. Raises KeyError if ``convdsl.<module>`` has none of this name."""
    return read_module(module).definitions[name]


@cache
def kernel_names() -> frozenset[str]:
    """Every name defined in ``convdsl.kernels``: a local variable must not hide one."""
    return _names_in("kernels")


@cache
def support_names() -> frozenset[str]:
    """Every name defined in ``convdsl.runtime``: a network's class must not take one's place."""
    return _names_in("runtime")


def _names_in(room: str) -> frozenset[str]:
    modules = (path.stem for path in sorted(PACKAGE.joinpath(room).glob("*.py")))
    return frozenset(name for m in modules for name in read_module(f"{room}.{m}").definitions)


class Copier:
    """Collects definitions, each once, what is used before what uses it."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, module: str, name: str) -> None:
        """Copy ``convdsl.<module>.<name>`` and everything of ours it uses."""
        source = read_module(module)
        if name in self._texts:
            return
        self._texts[name] = ""  # breaks cycles; overwritten below
        self.add_used(module, name)
        del self._texts[name]
        self._texts[name] = source.definitions[name].text

    def add_used(self, module: str, name: str) -> None:
        """Copy everything of ours that ``convdsl.<module>.<name>`` uses, but not it."""
        source = read_module(module)
        for used in sorted(source.definitions[name].uses):
            if used in source.definitions:
                self.add(module, used)
            elif used in source.imports:
                self.add(source.imports[used], used)

    def __contains__(self, name: str) -> bool:
        return name in self._texts

    @property
    def text(self) -> str:
        """All copies, two blank lines between functions."""
        return "\n\n\n".join(self._texts.values())
