"""Chains of the AST -> nodes of the graph: repeats, conditions, blocks and branches vanish here.

Shapes flow along, so that expressions can read the current tensor. An item that fails is reported
with its expansion stack and gives `POISON`, of which nothing more is said; other branches and
outputs go on. Recursion is at most as deep as the budget's nesting; recursive blocks must have
been refused before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from convdsl.diagnostics import Diagnostic, Frame, Label
from convdsl.ir.graph import Origin
from convdsl.ir.graph import Value as Tensor
from convdsl.ir.op import LAYERS
from convdsl.ir.types import TensorType
from convdsl.lower.bind import Bound, Defaults, Signature, bind, parameters
from convdsl.lower.budget import Budget
from convdsl.lower.evaluate import (
    Context,
    Unknown,
    Value,
    condition,
    evaluate,
    overlay,
    show,
)
from convdsl.lower.findings import Failed, Findings, Poisoned, failure
from convdsl.lower.layers import branches_problem, layer_signature, unknown_layer
from convdsl.lower.merge import Branch, Step
from convdsl.lower.nodes import Nodes, Use
from convdsl.lower.repeat import iterations
from convdsl.lower.scope import POISON, Flow, Path, Poison, Scope, Tags
from convdsl.lower.shapes import axis_size, tensor_type
from convdsl.lower.unit import Recipe, Unit
from convdsl.source import Span
from convdsl.syntax import ast

#: the label of a block that is repeated by itself: the repeat has opened its scope already
HERE = ""


@dataclass(frozen=True, slots=True)
class Module:
    """A module at its first use: where its parameters are, and what it was used on."""

    component: str
    arguments: dict[str, Value]
    input: TensorType | None
    span: Span


@dataclass(slots=True, eq=False)
class Expander:
    """Expands the chains of the program ``root`` into ``nodes``.

    inputs: the named inputs, which the blocks of that file can reach. top: its outermost scope.
    resized: the input is not the one the file was written for, so notes are not held to sizes.
    """

    root: Unit
    nodes: Nodes
    budget: Budget
    findings: Findings
    inputs: Tags
    top: Path
    resized: bool = False
    #: tags that became part of a parameter's name
    naming: set[Span] = field(default_factory=set)
    _modules: dict[Recipe, Module] = field(default_factory=dict)

    def chain(
        self, chain: ast.Chain, flow: Flow, scope: Scope, steps: list[Step] | None = None
    ) -> Flow:
        """The result of a chain that starts from ``flow``; ``steps`` records its items."""
        for item in chain.items:
            if isinstance(flow, Poison) and not isinstance(item.body, ast.Reference):
                self.budget.skip(item.span)
                continue
            flow = self.item(item, len(item.posts), flow, scope)
            if isinstance(flow, Poison):
                scope.tags.poisoned = True
            elif steps is not None and flow is not None:
                steps.append(Step(item.span, flow.type))
        return flow

    def item(
        self, item: ast.Item, posts: int, flow: Flow, scope: Scope, label: str | None = None
    ) -> Flow:
        """The item with its first ``posts`` postfixes. ``label``: the tag that names it."""
        self.budget.enter(item.span, scope.frames)
        try:
            if posts == 0:
                return self._primary(item.body, flow, scope, label)
            return self._post(item, posts - 1, flow, scope, label)
        except Failed as failed:
            self.findings.add(failed.diagnostic, scope.frames)
            return POISON
        except Poisoned:
            return POISON
        finally:
            self.budget.leave()

    def _post(
        self, item: ast.Item, index: int, flow: Flow, scope: Scope, label: str | None
    ) -> Flow:
        match item.posts[index]:
            case ast.Tag() as tag:
                scope.tags.refuse_second(tag.name, tag.span)
                made = self.nodes.parameter_count
                result = self.item(item, index, flow, scope, tag.name)
                if self.nodes.parameter_count > made:
                    self.naming.add(tag.span)
                scope.tags.bind(tag.name, result, tag.span)
                return result
            case ast.Note() as note:
                result = self.item(item, index, flow, scope, label)
                self._note(note, result)
                return result
            case ast.Condition() as post:
                context = self.context(flow, scope)
                if condition(evaluate(post.test, context), post.test.span, context):
                    return self.item(item, index, flow, scope, label)
                if post.otherwise is not None:
                    return self._primary(post.otherwise, flow, scope, label)
                return flow
            case ast.Repeat() as repeat:
                return self._repeat(item, index, repeat, flow, scope, label)

    def _note(self, note: ast.Note, result: Flow) -> None:
        if isinstance(result, Poison):
            return
        wanted = tensor_type(note.shape)
        if result is None or not self._is_as_noted(result, wanted):
            found = "nothing" if result is None else self.nodes.notation.show(result.type)
            message = f"this is {found}, not {self.nodes.notation.show(wanted)}"
            help = "for another input the sizes of a note may differ, but not channels and axes;"
            help += " leave it out if it holds for the file's own input only"
            raise failure("E211", message, note.span, help if self.resized else None)

    def _is_as_noted(self, result: Tensor, wanted: TensorType) -> bool:
        """Equal; of another input only what its size has no part in, channels and axes."""
        kind = result.type
        if not self.resized or len(kind.shape) != len(wanted.shape):
            return kind == wanted
        if kind.is_vector and not self.nodes.has_fixed_length(result):
            return True
        return kind.channels == wanted.channels

    def _repeat(
        self,
        item: ast.Item,
        index: int,
        repeat: ast.Repeat,
        flow: Flow,
        scope: Scope,
        label: str | None,
    ) -> Flow:
        count, bindings = iterations(repeat, self.context(flow, scope))
        self.budget.repeats(count, repeat.span, scope.frames)
        block = self._single_block(item, index, scope)
        component = self._component(label, block or "stack", scope, repeat.span)
        path = scope.path.child(component) if component else scope.path
        span = Span(item.span.source, item.span.start, repeat.span.end)
        for number, names in enumerate(bindings):
            inner = replace(
                scope,
                names=overlay(names, scope.names) if names else scope.names,
                tags=Tags(scope.tags),
                path=path.child(str(number)),
                frames=(
                    *scope.frames,
                    Frame(f"repetition {number + 1} of {count}", span, (number + 1, count)),
                ),
            )
            flow = self.item(item, index, flow, inner, HERE if block else None)
            if isinstance(flow, Poison):
                return flow
        return flow

    def _single_block(self, item: ast.Item, posts: int, scope: Scope) -> str | None:
        """The block's name if the repeated item is one call of a block and nothing else."""
        body, rest = item.body, item.posts[:posts]
        while isinstance(body, ast.Group) and not rest and len(body.chain.items) == 1:
            only = body.chain.items[0]
            body, rest = only.body, only.posts
        if rest or not isinstance(body, ast.Call):
            return None
        recipe = scope.unit.recipes.get(body.name)
        return body.name if recipe and recipe.definition.keyword == "block" else None

    def _component(self, label: str | None, name: str, scope: Scope, span: Span) -> str:
        """The path component of an item: its tag, else ``name`` with an ordinal."""
        if label == HERE:
            return HERE
        return scope.path.untagged(name) if label is None else scope.path.tagged(label, span)

    def _primary(self, body: ast.Primary, flow: Flow, scope: Scope, label: str | None) -> Flow:
        match body:
            case ast.Group() if label == HERE:
                return self.item(body.chain.items[0], 0, flow, scope, HERE)
            case ast.Group():
                if label is not None:
                    component = scope.path.tagged(label, body.span)
                    scope = replace(scope, path=scope.path.child(component))
                return self.chain(body.chain, flow, scope)
            case ast.Reference():
                return scope.tags.find(body.name, body.span)
            case ast.Call():
                recipe = scope.unit.recipes.get(body.name)
                if recipe is not None:
                    return self._call(body, recipe, flow, scope, label)
                return self._layer(body, flow, scope, label)

    def context(self, flow: Flow, scope: Scope) -> Context:
        """What an expression may read where ``flow`` arrives."""

        def shape_of(shape: ast.ShapeOf) -> int:
            source = flow if shape.tag is None else scope.tags.find(shape.tag, shape.span)
            if isinstance(source, Poison):
                raise Poisoned
            if source is None:
                raise failure("E226", "no tensor flows here, so there is no shape", shape.span)
            return axis_size(source.type, shape, self.nodes.notation)

        return Context(scope.names, shape_of, self.budget.limits, self.budget.operand)

    def bind(
        self,
        signature: Signature,
        arguments: tuple[ast.Argument, ...],
        flow: Flow,
        scope: Scope,
        span: Span,
    ) -> Bound:
        """The values of a call. Reports its problems and raises Poisoned if it has any."""
        context = self.context(flow, scope)
        given = None
        if signature.builtin:
            file_context = replace(context, names=scope.unit.lets)
            given = Defaults(
                scope.unit.defaults_before(scope.position, signature),
                lambda expr: evaluate(expr, file_context),
                scope.unit.lets,
            )
        bound = bind(
            signature,
            arguments,
            lambda expr: evaluate(expr, context),
            scope.names,
            given,
            span,
        )
        for problem in bound.problems:
            self.findings.add(problem, scope.frames)
        if bound.problems or bound.poisoned:
            raise Poisoned
        return bound

    def _call(
        self, call: ast.Call, recipe: Recipe, flow: Flow, scope: Scope, label: str | None
    ) -> Flow:
        definition = recipe.definition
        signature = parameters(call.name, definition.parameters)
        bound = self.bind(signature, call.arguments, flow, scope, call.span)
        values = self._complete(recipe, bound.values, flow, scope)
        shown = ", ".join(f"{name}={show(value)[:40]}" for name, value in values.items())
        self.budget.calls(scope.calls + 1, call.span, scope.frames)
        shared = definition.keyword == "module"
        if shared:
            path = self._module(call, recipe, values, flow)
        else:
            component = self._component(label, call.name, scope, call.name_span)
            path = scope.path.child(component) if component else scope.path
        inner = Scope(
            recipe.unit,
            recipe.position,
            overlay(dict(values), recipe.unit.lets),
            Tags(self.inputs if recipe.unit is self.root else None),
            path,
            (*scope.frames, Frame(f"{call.name}({shown})" if shown else call.name, call.span)),
            scope.calls + 1,
            scope.shared or shared,
        )
        return self.chain(definition.body, flow, inner)

    def _complete(
        self, recipe: Recipe, given: Mapping[str, Value], flow: Flow, scope: Scope
    ) -> dict[str, Value]:
        """All parameters in order; a default may read the file's lets and earlier parameters."""
        values: dict[str, Value] = {}
        names: dict[str, Value | Unknown] = {}
        context = replace(self.context(flow, scope), names=overlay(names, recipe.unit.lets))
        for parameter in recipe.definition.parameters:
            if parameter.name in given:
                value = given[parameter.name]
            elif parameter.default is None:
                continue  # reported as missing by `bind`
            else:
                value = evaluate(parameter.default, context)
            values[parameter.name] = names[parameter.name] = value
        return values

    def _module(self, call: ast.Call, recipe: Recipe, values: dict[str, Value], flow: Flow) -> Path:
        """The scope of a module's parameters: the same at every use. Raises Failed E223."""
        kind = flow.type if isinstance(flow, Tensor) else None
        known = self._modules.get(recipe)
        if known is None:
            known = Module(self.top.untagged(call.name), values, kind, call.span)
            self._modules[recipe] = known
        if (known.input, known.arguments) != (kind, values):
            message = f"{call.name} has one set of weights, but other arguments here"
            first, here = "first used here", ""
            if known.input is not None and kind is not None and known.input != kind:
                first, here = (f"on {self.nodes.notation.show(t)}" for t in (known.input, kind))
                message = f"{call.name} has one set of weights, but is used {first} and {here}"
            raise Failed(
                Diagnostic(
                    "E223",
                    message,
                    (Label(call.span, here), Label(known.span, first)),
                    help="make it a `block` if each use may have weights of its own",
                )
            )
        return self.top.child(known.component)

    def _layer(self, call: ast.Call, flow: Flow, scope: Scope, label: str | None) -> Flow:
        signature = layer_signature(call.name)
        if signature is None:
            if call.name in scope.unit.unresolved:
                raise Poisoned
            raise Failed(unknown_layer(call.name, call.name_span, scope.unit.recipes))
        problem = branches_problem(call.name, len(call.branches), call.name_span)
        if problem is not None:
            raise Failed(problem)
        component = self._component(label, call.name.lower(), scope, call.name_span)
        branches = self._branches(call, flow, scope, scope.path.child(component))
        bound = self.bind(signature, call.arguments, flow, scope, call.span)
        text = f"{call.name}({', '.join(bound.shown)})" if bound.shown else call.name
        origin = Origin(text, scope.path.join(component), call.span, scope.frames)
        op = LAYERS[call.name](**bound.values)
        if not call.branches:
            inputs = [self.need(flow, call.name_span)]
        else:
            inputs = [self.need(result, call.name_span) for result, _ in branches]
        traces = [trace for _, trace in branches]
        use = Use(call.span, call.name_span, bound.spans, origin, traces, scope.shared)
        return self.nodes.layer(op, inputs, use)

    def _branches(
        self, call: ast.Call, flow: Flow, scope: Scope, path: Path
    ) -> list[tuple[Flow, Branch]]:
        """Every branch with its result. All are expanded, also behind one that failed."""
        results: list[tuple[Flow, Branch]] = []
        for number, chain in enumerate(call.branches):
            steps: list[Step] = []
            elsewhere = isinstance(chain.items[0].body, ast.Reference)
            start = flow.type if isinstance(flow, Tensor) and not elsewhere else None
            inner = replace(scope, path=path.child(str(number)))
            result = self.chain(chain, flow, inner, steps)
            results.append((result, Branch(chain.span, start, tuple(steps))))
        return results

    def need(self, flow: Flow, span: Span) -> Tensor:
        """The tensor that flows. Raises Failed E221 if the chain began with nothing."""
        if isinstance(flow, Poison):
            raise Poisoned
        if flow is None:
            raise failure(
                "E221",
                "the program has several inputs, and none flows here",
                span,
                "start the chain at one of them: @name - ...",
            )
        return flow
