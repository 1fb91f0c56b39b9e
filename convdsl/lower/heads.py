"""The head after the comma: its arguments, whether it suits the tensor, and what it contains."""

from typing import Any

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.graph import Output, Value
from convdsl.ir.head import Head
from convdsl.ir.op import HEADS, LAYERS, Layer, ShapeError
from convdsl.lower.expand import Expander
from convdsl.lower.findings import Failed, failure
from convdsl.lower.layers import head_signature, unknown_head
from convdsl.lower.nodes import shape_problem
from convdsl.lower.scope import Scope
from convdsl.syntax import ast


def attach(
    head: ast.Head, name: str, value: Value, expander: Expander, scope: Scope, is_net: bool
) -> Output:
    """The output ``name`` that ``value`` becomes by its head. Warns of an activation before it.

    Raises Failed (E215 unknown or unsuited, E216 contained twice) or Poisoned.
    """
    signature = head_signature(head.name)
    if signature is None:
        raise Failed(unknown_head(head.name, head.name_span))
    bound = expander.bind(signature, head.arguments, value, scope, head.span)
    kind: Any = HEADS[head.name]
    made: Head = kind(**bound.values)
    _look_below(head, made, value, expander)
    try:
        made.check(value.type)
    except ShapeError as error:
        span = bound.spans.get(error.argument or "", head.span)
        notation = expander.nodes.notation
        raise Failed(shape_problem(error, head.name, (Label(span),), notation)) from None
    if is_net and made.only is not None:
        raise failure(
            "E215",
            f"only={made.only} would leave the net without a result at inference",
            bound.spans["only"],
            "it belongs to a further `output name = ...`",
        )
    constants = tuple(
        expander.nodes.constant(scope.path.join(scope.path.tagged(key, head.span)), spec)
        for key, spec in made.constants(value.type).items()
    )
    return Output(name, value, made, constants)


def _look_below(head: ast.Head, made: Head, value: Value, expander: Expander) -> None:
    """The layer directly under the head must not do what the head does, or bend the scores."""
    below = expander.nodes.producers.get(value)
    if below is None or below.origin.span is None or not isinstance(below.op, Layer):
        return
    here = Label(below.origin.span)
    if made.absorbs and type(below.op) is LAYERS.get(made.absorbs):
        raise Failed(
            Diagnostic(
                "E216",
                f"the head {head.name} contains {below.op.name} already",
                (here, Label(head.span, "applies it again")),
                below.origin.frames,
                f"remove the layer: `, {head.name}` trains on raw scores and predict() applies it",
            )
        )
    if made.on_scores and below.op.is_activation:
        expander.findings.add(
            Diagnostic(
                "W305",
                f"{below.op.name} bends the scores that {head.name} works on",
                (here, Label(head.span)),
                below.origin.frames,
                "leave the activation out behind the last layer",
            )
        )
