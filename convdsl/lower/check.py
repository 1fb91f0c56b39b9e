"""What can be said of a file before anything is expanded: names, arguments, recursion.

Every block is looked at, used or not, so that all slips are reported in one run. A value that is
known only during expansion (a block's parameter, a loop variable, a shape) is taken as fitting.
"""

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping

from convdsl.diagnostics import Diagnostic, Label
from convdsl.lower.bind import Defaults, Evaluate, Signature, bind, parameters
from convdsl.lower.budget import Limits
from convdsl.lower.evaluate import (
    UNKNOWN,
    WORDS,
    Context,
    Names,
    Unknown,
    Value,
    condition,
    evaluate,
    overlay,
    unknown_name,
)
from convdsl.lower.findings import Failed, Findings, Poisoned, suggestion
from convdsl.lower.layers import (
    branches_problem,
    head_signature,
    layer_signature,
    unknown_head,
    unknown_layer,
)
from convdsl.lower.repeat import whole_count
from convdsl.lower.unit import Recipe, Unit, twice
from convdsl.lower.walk import Seen, expressions, operators, walk
from convdsl.source import Span
from convdsl.syntax import ast

#: names in the order written, so that suggestions do not depend on chance
TagNames = dict[str, None]


class Checker:
    """Checks the files of one program against each other and the registry of layers."""

    def __init__(self, limits: Limits, findings: Findings) -> None:
        self._limits = limits
        self._findings = findings

    def unit(self, unit: Unit, root: bool) -> None:
        """Check one file. Its nets count only if it is the program itself (``root``)."""
        self.defaults(unit)
        inputs = dict.fromkeys(i.name for i in unit.inputs if i.name and root)
        for recipe in list(unit.recipes.values()):
            if recipe.unit is unit:
                self._recipe(recipe, inputs)
        if root:
            self._nets(unit)
        self._recursion(unit)

    def defaults(self, unit: Unit) -> None:
        """Arguments of every `default` line of the file."""
        for lines in unit.defaults.values():
            for _, default in lines:
                signature = layer_signature(default.layer)
                recipe = unit.recipes.get(default.layer)
                if signature is None and recipe is not None:
                    message = f"`default` completes layers, and {default.layer} is a "
                    message += recipe.definition.keyword
                    help = f"write the default in its definition: {default.layer}(name=value)"
                    label = Label(default.layer_span)
                    self._findings.add(Diagnostic("E200", message, (label,), help=help))
                elif signature is None:
                    self._findings.add(unknown_layer(default.layer, default.layer_span, ()))
                else:
                    self._bind(signature, default.arguments, unit.lets, None, None)

    def _recipe(self, recipe: Recipe, inputs: TagNames) -> None:
        definition = recipe.definition
        names: dict[str, Value | Unknown] = {p.name: UNKNOWN for p in definition.parameters}
        for parameter in definition.parameters:
            if parameter.default is not None:
                self._operands(parameter.default, overlay(names, recipe.unit.lets), words=True)
        self._chain(definition.body, recipe.unit, recipe.position, names, inputs)

    def _nets(self, unit: Unit) -> None:
        seen: dict[str, Span] = {}
        for declared in unit.inputs:
            name = declared.name or ""
            if name in seen:
                self._findings.add(twice(name, declared.span, seen[name], "the unnamed input"))
            seen.setdefault(name, declared.span)
        mains = [net for _, net in unit.nets if net.keyword == "net"]
        for net in mains[1:]:
            self._findings.add(twice("", net.span, mains[0].span, "the net"))
        tags: TagNames = dict.fromkeys(filter(None, seen))
        for _, net in unit.nets:
            tags |= _tags(walk(net.chain))
        outputs: dict[str, Span] = {}
        for position, net in unit.nets:
            if net.keyword == "output":
                name = net.name or ""
                if name in outputs:
                    self._findings.add(twice(name, net.span, outputs[name]))
                outputs.setdefault(name, net.span)
            self._chain(net.chain, unit, position, {}, tags)
            if net.head is not None:
                self._head(net.head, unit.lets)

    def _head(self, head: ast.Head, names: Names) -> None:
        signature = head_signature(head.name)
        if signature is None:
            self._findings.add(unknown_head(head.name, head.name_span))
        else:
            self._bind(signature, head.arguments, names, None, head.span)

    def _chain(
        self,
        chain: ast.Chain,
        unit: Unit,
        position: int,
        parameters: dict[str, Value | Unknown],
        outer_tags: TagNames,
    ) -> None:
        outer = overlay(parameters, unit.lets)
        seen = list(walk(chain))
        tags = ChainMap(_tags(seen), outer_tags)
        for place in seen:
            loops: dict[str, Value | Unknown] = dict.fromkeys(place.loops, UNKNOWN)
            names = overlay(loops, outer) if loops else outer
            match place.node:
                case ast.Call() as call:
                    self._call(call, unit, position, names)
                case ast.Reference() as reference:
                    self._tag(reference.name, reference.span, tags)
                case ast.Tag() as tag if not any(char.islower() for char in tag.name):
                    message = f"tag `{tag.name}` is written like a built-in layer"
                    help = f"use a lower-case letter: {tag.name.lower()}"
                    self._findings.add(Diagnostic("E208", message, (Label(tag.span),), help=help))
                case ast.Condition() as post:
                    self._operands(post.test, names)
                    self._kind(post.test, names, condition)
                case ast.Repeat(count=ast.Loop()):
                    for element in expressions(place.node):
                        self._operands(element, names, words=True)
                case ast.Repeat(count=count) if not isinstance(count, ast.Loop):
                    self._operands(count, names)
                    self._kind(count, names, whole_count)
            for expr in expressions(place.node):
                for part in operators(expr):
                    if isinstance(part, ast.ShapeOf) and part.tag is not None:
                        self._tag(part.tag, part.span, tags)

    def _call(self, call: ast.Call, unit: Unit, position: int, names: Names) -> None:
        recipe = unit.recipes.get(call.name)
        signature = layer_signature(call.name)
        for argument in call.arguments:
            self._operands(argument.value, names, words=True)
        if recipe is not None:
            if call.branches:
                message = f"{call.name} takes no branches"
                self._findings.add(Diagnostic("E225", message, (Label(call.name_span),)))
            declared = parameters(call.name, recipe.definition.parameters)
            self._bind(declared, call.arguments, names, None, call.span)
        elif signature is not None:
            problem = branches_problem(call.name, len(call.branches), call.name_span)
            if problem is not None:
                self._findings.add(problem)
            lines = unit.defaults_before(position, signature)
            given = Defaults(lines, self._evaluator(unit.lets), unit.lets)
            self._bind(signature, call.arguments, names, given, call.span)
        elif call.name not in unit.unresolved:
            self._findings.add(unknown_layer(call.name, call.name_span, unit.recipes))

    def _bind(
        self,
        signature: Signature,
        arguments: tuple[ast.Argument, ...],
        names: Names,
        given: Defaults | None,
        call: Span | None,
    ) -> None:
        bound = bind(signature, arguments, self._evaluator(names), names, given, call)
        self._findings.extend(bound.problems)

    def _evaluator(self, names: Names) -> Evaluate:
        context = Context(names, _unknown_shape, self._limits)
        return lambda expr: evaluate(expr, context)

    def _operands(self, expr: ast.Expr, names: Names, words: bool = False) -> None:
        """Report names that arithmetic needs and nothing binds. ``words``: alone they may stand."""
        for part in operators(expr):
            match part:
                case ast.Binary() if part.operator not in ("==", "!="):
                    needed = [part.left, part.right]
                case ast.Unary():
                    needed = [part.operand]
                case _:
                    needed = []
            if part is expr and not words:
                needed.append(part)
            for name in needed:
                if isinstance(name, ast.Name) and name.id not in names and name.id not in WORDS:
                    self._findings.add(unknown_name(name.id, name.span, names).diagnostic)

    def _kind(
        self, expr: ast.Expr, names: Names, kind: Callable[[Value, Span, Context], Value]
    ) -> None:
        """Report a condition or count that is known already and of the wrong kind."""
        context = Context(names, _unknown_shape, self._limits)
        try:
            kind(evaluate(expr, context), expr.span, context)
        except Failed as failed:
            self._findings.add(failed.diagnostic)
        except Poisoned:
            pass

    def _tag(self, name: str, span: Span, tags: Mapping[str, None]) -> None:
        if name not in tags:
            message = f"no tag or input `{name}` is in reach here"
            help = suggestion(name, tags) or f"write `as {name}` behind the item it means"
            self._findings.add(Diagnostic("E206", message, (Label(span),), help=help))

    def _recursion(self, unit: Unit) -> None:
        """Blocks of one file that come back to themselves; imports cannot, their files form no
        cycle."""
        done: set[str] = set()
        for start in unit.recipes:
            if start in done or unit.recipes[start].unit is not unit:
                continue
            # The blocks now open, in order of calls, each with the calls still to follow.
            path: dict[str, Iterator[ast.Call]] = {start: _calls(unit.recipes[start])}
            while path:
                name = next(reversed(path))
                call = next(path[name], None)
                if call is None:
                    done.add(name)
                    del path[name]
                elif call.name in path:
                    self._findings.add(_cycle(call, list(path)))
                elif call.name not in done:
                    recipe = unit.recipes.get(call.name)
                    if recipe is not None and recipe.unit is unit:
                        path[call.name] = _calls(recipe)


def _tags(seen: Iterable[Seen]) -> TagNames:
    return dict.fromkeys(s.node.name for s in seen if isinstance(s.node, ast.Tag))


def _cycle(call: ast.Call, path: list[str]) -> Diagnostic:
    names = [*path[path.index(call.name) :], call.name]
    shown = names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]
    return Diagnostic(
        "E209",
        f"`{call.name}` uses itself: {' -> '.join(shown)}",
        (Label(call.name_span),),
        help="repeat a block with `*n` instead",
    )


def _calls(recipe: Recipe) -> Iterator[ast.Call]:
    return (s.node for s in walk(recipe.definition.body) if isinstance(s.node, ast.Call))


def _unknown_shape(shape: ast.ShapeOf) -> int:
    raise Poisoned
