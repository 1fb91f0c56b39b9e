"""A Program -> its graph: inputs, then the net, then further outputs, then the lints.

Checks names before anything is expanded, and stops there only if a block is recursive.
"""

from math import isfinite
from numbers import Integral, Real
from pathlib import Path

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.ir.graph import Graph, Output, Role
from convdsl.ir.graph import Value as Tensor
from convdsl.ir.types import Notation
from convdsl.lower.budget import Budget, Exhausted, Limits
from convdsl.lower.check import Checker
from convdsl.lower.evaluate import UNKNOWN, Unknown, Value, Word
from convdsl.lower.expand import Expander
from convdsl.lower.findings import Failed, Findings, Poisoned, failure, suggestion
from convdsl.lower.heads import attach
from convdsl.lower.imports import Importer
from convdsl.lower.lints import lint_graph, lint_shape, lint_unit
from convdsl.lower.nodes import Nodes, identifier
from convdsl.lower.options import Lowered, Options, Uses
from convdsl.lower.scope import POISON, Flow, Scope, Tags
from convdsl.lower.scope import Path as Names
from convdsl.lower.shapes import notation_of, sizes_of, tensor_type
from convdsl.lower.unit import Unit, collect
from convdsl.lower.walk import expressions, operators, walk
from convdsl.source import Source, Span
from convdsl.syntax import ast

#: names of what the file leaves without one
INPUT, OUTPUT = "x", "output"


def lower(program: ast.Program, options: Options | None = None) -> Lowered:
    """The typed graph of ``program``.

    Raises CompileError with every finding if one of them is an error.
    """
    options = options or Options()
    findings = Findings(options.limits.errors)
    try:
        return _Lowering(program, options, findings).run()
    except Exhausted as exhausted:
        raise CompileError((*findings.errors, exhausted.diagnostic)) from None


class _Lowering:
    """One run of `lower`."""

    def __init__(self, program: ast.Program, options: Options, findings: Findings) -> None:
        self.options = options
        self.findings = findings
        folder = options.root
        if folder is not None and Path(program.source.name).is_file():
            folder = Path(program.source.name).resolve().parent
        self.importer = Importer(options.root, options.limits, findings)
        statements = (*options.defaults, *program.statements)
        program = ast.Program(program.source, statements)
        lets: dict[str, Value | Unknown] = {
            name: self._given(name, value) for name, value in options.lets.items()
        }
        self.unit = collect(program, folder, lets, options.limits, findings)
        self.lets = lets

    def run(self) -> Lowered:
        unit, findings, options = self.unit, self.findings, self.options
        here = Path(unit.program.source.name)
        own = (here.resolve(),) if unit.folder is not None and here.is_file() else ()
        self.importer.follow(unit, own)
        self._lets()
        checker = Checker(options.limits, findings)
        for other in self.importer.units.values():
            checker.unit(other, root=False)
        checker.unit(unit, root=True)
        if any(error.code == "E209" for error in findings.errors):
            findings.raise_errors()

        shape = options.inputs or (unit.inputs[0].shape if unit.inputs else None)
        notation = notation_of(shape) if shape else Notation.HWC
        budget = Budget(options.limits)
        nodes = Nodes(notation, options.strict, budget, findings)
        top = Names()
        tags = Tags()
        written = [sizes_of(declared.shape) for declared in unit.inputs[:1]]
        resized = options.inputs is not None and written not in ([], [sizes_of(options.inputs)])
        expander = Expander(unit, nodes, budget, findings, tags, top, resized)
        start, inputs = self._inputs(nodes, tags)
        outputs = self._outputs(expander, start)
        findings.raise_errors()
        lint_unit(unit, expander.naming, findings)

        main = next(net for _, net in unit.nets if net.keyword == "net")
        graph = Graph(
            identifier(main.name or "net"),
            notation,
            inputs,
            tuple(sorted(nodes.parameters.values(), key=lambda p: list(Role).index(p.role))),
            tuple(nodes.builder.nodes),
            outputs,
            updates=tuple(nodes.updates.items()),
        )
        lint_graph(graph, findings)
        uses = Uses(
            {n: v for n, v in unit.lets.items() if not isinstance(v, Unknown)},
            tuple(self.importer.units),
        )
        return Lowered(graph, findings.warnings, uses)

    def _given(self, name: str, value: object) -> Value | Unknown:
        """The value given for a let, as one of the language. E227 if it is none."""
        given = _value(value, name, self.options.limits)
        if isinstance(given, Unknown):
            message = f"this {type(value).__name__} is no value for let `{name}`"
            help = "give a number below 2**63, true or false, a word, or a tuple of these"
            self.findings.add(Diagnostic("E227", message, help=help))
        return given

    def _lets(self) -> None:
        """A bare chain takes its free names from `-D`; anything else must have the let."""
        unit = self.unit
        known = list(unit.lets)
        statements = [s for s in unit.program.statements if not isinstance(s, ast.Default)]
        if len(statements) == len(unit.nets) == 1 and unit.nets[0][1].name is None:
            known = sorted(_names(unit))
            unit.lets.update({n: v for n, v in self.lets.items() if n in known})
        for name in self.lets:
            if name in known:
                continue
            names = ", ".join(known[:8])
            help = suggestion(name, known) or (f"it has {names}" if names else "it has none")
            self.findings.add(Diagnostic("E227", f"the file has no let `{name}`", help=help))

    def _inputs(self, nodes: Nodes, tags: Tags) -> tuple[Flow, tuple[Tensor, ...]]:
        """The inputs, entered as tags if they are named; and what a chain starts from."""
        declared = list({i.name: (i.name, i.shape) for i in reversed(self.unit.inputs)}.values())
        declared.reverse()  # of two with one name the first, the second is reported by `check`
        override = self.options.inputs
        if override is not None and len(declared) > 1:
            self.findings.add(
                failure(
                    "E221", "the program has several inputs, --input gives one", override.span
                ).diagnostic
            )
        elif override is not None:
            declared = [(declared[0][0] if declared else None, override)]
        made: list[Tensor] = []
        for name, shape in declared:
            flow: Flow = POISON
            lint_shape(shape, self.findings)
            try:
                flow = nodes.input(name or INPUT, tensor_type(shape), shape.span)
                made.append(flow)
                if name:
                    tags.bind(name, flow, shape.span)
            except Failed as failed:
                self.findings.add(failed.diagnostic)
                if name and failed.diagnostic.code != "E207":
                    tags.bind(name, POISON, shape.span)
        if len(declared) == 1:
            return (made[0] if made else POISON), tuple(made)
        if not declared:
            self._no_input()
            return POISON, ()
        return None, tuple(made)

    def _no_input(self) -> None:
        for _, net in self.unit.nets:
            self.findings.add(
                failure(
                    "E221",
                    "the size of the input is not known",
                    net.chain.items[0].span,
                    "write `input 32x32x3` above the net, or call with --input 32x32x3",
                ).diagnostic
            )
            return

    def _outputs(self, expander: Expander, start: Flow) -> tuple[Output, ...]:
        """The net first: outputs may refer to its tags wherever they stand."""
        unit = self.unit
        nets = sorted(unit.nets, key=lambda entry: entry[1].keyword != "net")
        if not nets or nets[0][1].keyword != "net":
            labels = (Label(Span(unit.program.source, 0, 0)),)
            help = "write `net = ...` or one chain of layers"
            self.findings.add(Diagnostic("E110", "the file has no net", labels, help=help))
        outputs: list[Output] = []
        tags = Tags(expander.inputs)
        for position, net in nets:
            is_main = net.keyword == "net"
            path = expander.top
            name = OUTPUT if is_main or net.name is None else net.name
            try:
                if not is_main:
                    path = path.child(path.tagged(name, net.span))
                scope = Scope(unit, position, unit.lets, tags if is_main else Tags(tags), path)
                flow = expander.chain(net.chain, start, scope)
                value = expander.need(flow, net.chain.span)
                output = Output(name, value)
                if net.head is not None:
                    output = attach(net.head, name, value, expander, scope, is_main)
            except Failed as failed:
                self.findings.add(failed.diagnostic)
            except Poisoned:
                pass
            else:
                outputs.append(output)
        hidden = expander.nodes.penalised.items()
        outputs += [Output(name, value, penalty=penalty) for name, (value, penalty) in hidden]
        return tuple(outputs)


def _value(value: object, name: str, limits: Limits) -> Value | Unknown:
    """What Python code gives for a let: numbers of any library, words, tuples and lists."""
    match value:
        case bool() | Word():
            return value
        case str() if value.isidentifier():
            source = Source("<lets>", f"{name}={value}")
            return Word.at(value, Span(source, len(name) + 1, len(source.text)))
        case Integral() if abs(int(value)) < limits.integer:
            return int(value)
        case Real() if not isinstance(value, Integral) and isfinite(value):
            return float(value)
        case tuple() | list() if 1 < len(value) <= limits.values:
            parts = [_value(part, name, limits) for part in value]
            known = tuple(part for part in parts if not isinstance(part, Unknown))
            return known if len(known) == len(parts) else UNKNOWN
    return UNKNOWN


def _names(unit: Unit) -> set[str]:
    """Names the expressions of a bare chain read."""
    nodes: list[object] = [net.head for _, net in unit.nets]
    nodes += [seen.node for _, net in unit.nets for seen in walk(net.chain)]
    nodes += [line for lines in unit.defaults.values() for _, line in lines]
    parts = (part for node in nodes for expr in expressions(node) for part in operators(expr))
    return {part.id for part in parts if isinstance(part, ast.Name)}
