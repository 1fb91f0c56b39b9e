"""What lowering can be told from outside, and what it hands back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convdsl.diagnostics import Diagnostic
from convdsl.ir.graph import Graph
from convdsl.lower.budget import Limits
from convdsl.lower.evaluate import Value
from convdsl.syntax import ast


@dataclass(frozen=True, slots=True)
class Options:
    """lets: values of `-D`, in place of the file's own. inputs: a shape in place of that of the
    file's one `input` line, or of a missing one. defaults: as if they stood in the first line.
    strict: an output size that is not whole is an error. root: the folder imports start in and
    may not leave; None forbids imports.
    """

    lets: Mapping[str, Value] = field(default_factory=dict)
    inputs: ast.Shape | None = None
    defaults: tuple[ast.Default, ...] = ()
    strict: bool = False
    root: Path | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Uses:
    """What the graph was made from: the lets with their values, and the imported files."""

    lets: Mapping[str, Value]
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Lowered:
    """The forward graph of a program, the warnings found, and what it was made from."""

    graph: Graph
    warnings: tuple[Diagnostic, ...]
    uses: Uses
