"""Looks names of layers and heads up in the registry, and layers up by what they can do."""

import re
from collections.abc import Iterable
from functools import cache

from convdsl.diagnostics import Diagnostic, Label
from convdsl.ir.op import HEADS, LAYERS, Layer
from convdsl.ir.types import TensorType
from convdsl.lower.bind import Signature
from convdsl.lower.findings import suggestion
from convdsl.source import Span

_PROBE = TensorType((2, 3, 5))


def layer_signature(name: str) -> Signature | None:
    """The arguments of a built-in layer, None if there is none of this name."""
    return Signature(name, LAYERS[name].arguments()) if name in LAYERS else None


def head_signature(name: str) -> Signature | None:
    """The arguments of a head, None if there is none of this name."""
    return Signature(name, HEADS[name].arguments()) if name in HEADS else None


def unknown_layer(name: str, span: Span, recipes: Iterable[str]) -> Diagnostic:
    """The E200 finding, with the nearest layer, block or module."""
    known = _known_as(name)
    near = f"did you mean {known}?" if known else suggestion(name, (*LAYERS, *recipes))
    return Diagnostic(
        "E200",
        f"no layer, block or module is called `{name}`",
        (Label(span),),
        help=near or "`convdsl layers` lists the layers",
    )


def _known_as(name: str) -> str | None:
    """The layer other systems call ``name``, with whatever underscores and number of axes."""
    plain = name.upper().replace("_", "")
    for key in (plain, re.sub("[12]D", "", plain)):
        for known, layer in LAYERS.items():
            if key == known.replace("_", "") or key in layer.aliases:
                return known
    return None


def unknown_head(name: str, span: Span) -> Diagnostic:
    """The E215 finding for a head that does not exist."""
    return Diagnostic(
        "E215",
        f"no head is called `{name}`",
        (Label(span),),
        help=suggestion(name, HEADS) or "the heads are " + ", ".join(sorted(HEADS)),
    )


def branches_problem(name: str, count: int, span: Span) -> Diagnostic | None:
    """The E225 finding if a layer has branches and takes none, or the other way round."""
    takes = LAYERS[name].arity == 0
    if takes == (count > 0):
        return None
    if takes:
        message, help = f"{name} needs branches to merge", f"write {name}{{ a | b }}"
    else:
        merges = sorted(n for n, cls in LAYERS.items() if cls.arity == 0)
        message, help = f"{name} takes no branches", f"branches belong to {', '.join(merges)}"
    return Diagnostic("E225", message, (Label(span),), help=help)


@cache
def flattening() -> Layer:
    """The layer that makes a vector of a map, found by what it does: all elements are kept."""
    for cls in LAYERS.values():
        if cls.arity == 1 and not any(spec.required for spec in cls.arguments()):
            layer = cls()
            if not cls.flattens and layer.shape(_PROBE).shape == (_PROBE.elements,):
                return layer
    raise LookupError("no layer flattens a map")
