"""`*3`, `*N` and `*(k, n in (64, 2), (128, 3))` -> how often, and the names of each time."""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from convdsl.lower.evaluate import (
    Context,
    Unknown,
    Value,
    Word,
    evaluate,
    number,
    show,
    unknown_name,
)
from convdsl.lower.findings import failure
from convdsl.source import Span
from convdsl.syntax import ast

Bindings = dict[str, Value | Unknown]


def iterations(post: ast.Repeat, context: Context) -> tuple[int, Iterable[Bindings]]:
    """The number of repetitions and, lazily, the loop variables of each.

    Raises Failed E219 for elements that do not match the names, E220 for a count below 1.
    """
    if isinstance(post.count, ast.Loop):
        return _loop(post.count, context)
    count = whole_count(evaluate(post.count, context), post.count.span, context)
    return count, repeat({}, count)


def whole_count(value: Value, span: Span, context: Context) -> int:
    """``value`` if it can be a repeat count. Raises Failed E205 for an unknown name, else E220."""
    if isinstance(value, Word):
        raise unknown_name(value, value.span, context.names)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        wanted = "a repeat count is a whole number >= 1"
        raise failure("E220", f"{wanted}, not {show(value)[:60]}", span)
    return value


def _loop(loop: ast.Loop, context: Context) -> tuple[int, Iterable[Bindings]]:
    if len(set(loop.names)) != len(loop.names):
        raise failure("E207", "a loop variable is named twice", loop.span)
    total = 0
    parts: list[Iterable[Bindings]] = []
    for element in loop.elements:
        if isinstance(element, ast.Range):
            span = _range(loop, element, context)
            total += len(span)
            parts.append({loop.names[0]: value} for value in span)
        else:
            total += 1
            parts.append([_element(loop, element, context)])
    return total, _chained(parts)


def _chained(parts: list[Iterable[Bindings]]) -> Iterator[Bindings]:
    return chain.from_iterable(parts)


def _range(loop: ast.Loop, element: ast.Range, context: Context) -> range:
    if len(loop.names) > 1:
        raise failure("E219", "a range gives one value, the loop has more names", element.span)
    ends = []
    for expr in (element.first, element.last):
        end = number(evaluate(expr, context), expr.span, context)
        if not isinstance(end, int):
            raise failure("E218", f"a range needs whole numbers, not {show(end)}", expr.span)
        ends.append(end)
    if ends[0] > ends[1]:
        raise failure("E220", f"the range {ends[0]} .. {ends[1]} is empty", element.span)
    return range(ends[0], ends[1] + 1)


def _element(loop: ast.Loop, element: ast.Expr, context: Context) -> Bindings:
    value = evaluate(element, context)
    if len(loop.names) == 1:
        return {loop.names[0]: value}
    count = len(value) if isinstance(value, tuple) else 1
    if not isinstance(value, tuple) or count != len(loop.names):
        given = "1 value" if count == 1 else f"{count} values"
        raise failure(
            "E219",
            f"{len(loop.names)} names ({', '.join(loop.names)}), but {given}",
            element.span,
            f"write ({', '.join(['...'] * len(loop.names))})",
        )
    return dict(zip(loop.names, value, strict=True))
