"""One file as lowering sees it: its lets, definitions, defaults, inputs and nets by name.

Turns the statements of a Program into tables and reports names defined twice, names of the wrong
case and a let that cannot be worked out. Definitions may be used before they stand; lets and
defaults hold from their line on.
"""

from bisect import bisect_left
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from convdsl.diagnostics import Diagnostic, Label
from convdsl.lower.bind import Signature
from convdsl.lower.budget import Exhausted, Limits, exceeded
from convdsl.lower.evaluate import UNKNOWN, WORDS, Context, Unknown, Value, evaluate, no_tensor
from convdsl.lower.findings import Failed, Findings, Poisoned, failure
from convdsl.lower.walk import operators
from convdsl.source import Span
from convdsl.syntax import ast


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """A block or module with the file it is written in, whose names its body means."""

    definition: ast.Definition
    unit: "Unit"
    position: int


@dataclass(slots=True, eq=False)
class Unit:
    """The tables of one file. ``folder`` is where its imports start, None if it has none."""

    program: ast.Program
    folder: Path | None
    #: UNKNOWN for one that could not be worked out
    lets: dict[str, Value | Unknown] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    defaults: dict[str, list[tuple[int, ast.Default]]] = field(default_factory=dict)
    inputs: list[ast.Input] = field(default_factory=list)
    nets: list[tuple[int, ast.Net]] = field(default_factory=list)
    #: imported names that were not found: a use of one is no further error
    unresolved: set[str] = field(default_factory=set)
    #: by layer: what none, one, two, ... of its `default` lines give together
    _merged: dict[str, list[Mapping[str, ast.Argument]]] = field(default_factory=dict)

    def defaults_before(self, position: int, signature: Signature) -> Mapping[str, ast.Argument]:
        """Arguments that `default` lines before a statement give a layer; a later line wins."""
        lines = self.defaults.get(signature.name)
        if not lines:
            return {}
        if signature.name not in self._merged:
            total: dict[str, ast.Argument] = {}
            self._merged[signature.name] = [total]
            for _, line in lines:
                total = {**total, **signature.match(line.arguments)}
                self._merged[signature.name].append(total)
        before = bisect_left(lines, position, key=lambda entry: entry[0])
        return self._merged[signature.name][before]

    def define(self, name: str, recipe: Recipe, span: Span, findings: Findings) -> None:
        """Enter a block, module or imported name; E207 if the name is taken, E208 for its case."""
        if not any(char.islower() for char in name):
            findings.add(
                failure(
                    "E208",
                    f"{recipe.definition.keyword} `{name}` is written like a built-in layer",
                    span,
                    f"use a lower-case letter: {name.lower()}",
                ).diagnostic
            )
        if name in self.recipes:
            first = self.recipes[name].definition.name_span
            findings.add(twice(name, span, first))
        else:
            self.recipes[name] = recipe


def twice(name: str, span: Span, first: Span, nameless: str = "") -> Diagnostic:
    """The E207 finding for a second definition of ``name``, or of what ``nameless`` says."""
    what = f"`{name}`" if name else nameless
    return Diagnostic(
        "E207",
        f"{what} is defined twice",
        (Label(span, "again here"), Label(first, "first here")),
        help="rename or remove one of them",
    )


def collect(
    program: ast.Program,
    folder: Path | None,
    overrides: Mapping[str, Value | Unknown],
    limits: Limits,
    findings: Findings,
) -> Unit:
    """The tables of ``program``, imports aside. ``overrides`` take the place of lets' values."""
    unit = Unit(program, folder)
    context = Context(unit.lets, no_tensor, limits)
    lets = {s.name for s in program.statements if isinstance(s, ast.Let)}
    spans: dict[str, Span] = {}
    for position, statement in enumerate(program.statements):
        match statement:
            case ast.Let():
                _let(unit, statement, overrides, context, spans, lets, findings)
            case ast.Default():
                unit.defaults.setdefault(statement.layer, []).append((position, statement))
            case ast.Definition():
                recipe = Recipe(statement, unit, position)
                unit.define(statement.name, recipe, statement.name_span, findings)
                _parameters(statement, limits, findings)
            case ast.Input():
                unit.inputs.append(statement)
            case ast.Net():
                unit.nets.append((position, statement))
    return unit


def _let(
    unit: Unit,
    let: ast.Let,
    overrides: Mapping[str, Value | Unknown],
    context: Context,
    spans: dict[str, Span],
    lets: AbstractSet[str],
    findings: Findings,
) -> None:
    if let.name in WORDS:
        findings.add(
            failure("E112", f"`{let.name}` is a word of the language", let.name_span).diagnostic
        )
    if let.name in spans:
        findings.add(twice(let.name, let.name_span, spans[let.name]))
        return
    spans[let.name] = let.name_span
    try:
        if let.name in overrides:
            unit.lets[let.name] = overrides[let.name]
        else:
            _look_ahead(let, lets - unit.lets.keys())
            unit.lets[let.name] = evaluate(let.value, context)
    except Failed as failed:
        findings.add(failed.diagnostic)
        unit.lets[let.name] = UNKNOWN
    except Poisoned:
        unit.lets[let.name] = UNKNOWN


def _look_ahead(let: ast.Let, later: AbstractSet[str]) -> None:
    """Raises Failed E205 if the value uses the let itself or one of those ``later`` ones."""
    for part in operators(let.value):
        if isinstance(part, ast.Name) and part.id == let.name:
            raise failure("E205", f"`{let.name}` uses itself", part.span)
        if isinstance(part, ast.Name) and part.id in later:
            help = f"move `let {part.id}` above this line"
            raise failure("E205", f"`{part.id}` is defined only further down", part.span, help)


def _parameters(definition: ast.Definition, limits: Limits, findings: Findings) -> None:
    if len(definition.parameters) > limits.values:
        place = definition.parameters[limits.values].span
        raise Exhausted(exceeded("parameters of one block", limits.values, place))
    seen: dict[str, Span] = {}
    for parameter in definition.parameters:
        if parameter.name in seen:
            findings.add(twice(parameter.name, parameter.span, seen[parameter.name]))
        seen.setdefault(parameter.name, parameter.span)
