"""The head after the comma: its arguments, whether it suits the tensor, and what it contains."""

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.graph import Value
from convdsl.ir.op import HEADS, LAYERS, Head, Layer, ShapeError
from convdsl.lower.expand import Expander
from convdsl.lower.findings import Failed
from convdsl.lower.layers import head_signature, unknown_head
from convdsl.lower.nodes import shape_problem
from convdsl.lower.scope import Scope
from convdsl.syntax import ast


def attach(head: ast.Head, value: Value, expander: Expander, scope: Scope) -> Head:
    """The head that stands on ``value``. Warns of an activation before it (W305).

    Raises Failed (E215 unknown or unsuited, E216 contained twice) or Poisoned.
    """
    signature = head_signature(head.name)
    if signature is None:
        raise Failed(unknown_head(head.name, head.name_span))
    bound = expander.bind(signature, head.arguments, value, scope, head.span)
    made = HEADS[head.name](**bound.values)
    _look_below(head, made, value, expander)
    try:
        made.check(value.type)
    except ShapeError as error:
        span = bound.spans.get(error.argument or "", head.span)
        notation = expander.nodes.notation
        raise Failed(shape_problem(error, head.name, (Label(span),), notation)) from None
    return made


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
    if below.op.is_activation:
        expander.findings.add(
            Diagnostic(
                "W305",
                f"{below.op.name} bends the scores that {head.name} works on",
                (here, Label(head.span)),
                below.origin.frames,
                "leave the activation out behind the last layer",
            )
        )
