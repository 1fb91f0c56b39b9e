"""Expressions of the AST -> values: numbers, conditions, words and tuples.

Exact integer arithmetic, every integer below 2**63; floats stay finite. A name that nothing binds
is a word (``same``), which arguments may accept and arithmetic refuses as unknown (E205). Reading
a name bound to `UNKNOWN` raises Poisoned: so checks run before the values are known.
"""

import operator
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.lower.budget import Limits, exceeded
from convdsl.lower.findings import Failed, Poisoned, failure, suggestion
from convdsl.source import Span
from convdsl.syntax import ast


class Word(str):
    """A bare word; remembers where it was written, in case it turns out to be a slip."""

    span: Span

    @classmethod
    def at(cls, text: str, span: Span) -> "Word":
        word = cls(text)
        word.span = span
        return word


class Unknown:
    """The value of a name that is bound, but not yet."""


UNKNOWN = Unknown()
WORDS: Mapping[str, bool] = {"true": True, "false": False}
DEPTH = 64
TUPLE_DEPTH = 8

Value = int | float | bool | str | tuple["Value", ...]
Names = Mapping[str, Value | Unknown]


def free(span: Span) -> None:
    """Operands that are worked out once only cost nothing."""


@dataclass(frozen=True, slots=True)
class Context:
    """What an expression may read: names in reach and the shapes of tensors.

    ``spend`` is told of every operand, and may end the expansion.
    """

    names: Names
    shape_of: Callable[[ast.ShapeOf], int]
    limits: Limits
    spend: Callable[[Span], None] = free


def overlay(inner: dict[str, Value | Unknown], outer: Names) -> Names:
    """``inner`` in front of ``outer``, without copying either."""
    maps = outer.maps if isinstance(outer, ChainMap) else [dict(outer)]
    return ChainMap(inner, *maps)


def evaluate(expr: ast.Expr, context: Context, depth: int = 0) -> Value:
    """The value of an expression. Raises Failed (E205, E217, E218, E226, E304) or Poisoned."""
    if depth > DEPTH:
        raise Failed(exceeded("operators inside one another", DEPTH, expr.span))
    # Operators of one level lean to the left: walk down that side instead of recursing.
    spine: list[ast.Binary] = []
    while isinstance(expr, ast.Binary):
        spine.append(expr)
        expr = expr.left
    value = _atom(expr, context, depth)
    for node in reversed(spine):
        value = _binary(node, value, context, depth)
    return value


def constant(expr: ast.Expr, limits: Limits) -> Value:
    """The value of an expression that no tensor or name surrounds, such as one of `-D`.

    Raises CompileError.
    """
    try:
        return evaluate(expr, Context({}, no_tensor, limits))
    except Failed as failed:
        raise CompileError([failed.diagnostic]) from None


def no_tensor(shape: ast.ShapeOf) -> int:
    """The ``shape_of`` of a place where no tensor flows: raises Failed E226."""
    raise failure("E226", "no tensor flows here, so there is no shape to read", shape.span)


def number(value: Value, span: Span, context: Context) -> int | float:
    """``value`` if it is a number. Raises Failed E205 for an unknown name, else E218."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(value, "a number", span, context)
    return value


def condition(value: Value, span: Span, context: Context) -> bool:
    """``value`` if it is true or false. Raises Failed E205 for an unknown name, else E218."""
    if not isinstance(value, bool):
        raise _unfit(value, "a condition", span, context)
    return value


def unknown_name(word: str, span: Span, names: Names) -> Failed:
    """The E205 failure for a word where a value is needed."""
    near = suggestion(word, names)
    return failure(
        "E205",
        f"nothing named `{word}` is in reach",
        span,
        near or f"define it with `let {word} = ...` or give it with `-D {word}=...`",
    )


def plain(value: Value) -> Value:
    """The value with words as ordinary strings, as layers take them."""
    if isinstance(value, tuple):
        return tuple(plain(v) for v in value)
    return str(value) if isinstance(value, Word) else value


def show(value: Value) -> str:
    """A value as the language writes it: ``3x5``, ``((0, 1), (1, 0))``, ``true``, ``0.5``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        if len(value) > 1 and all(type(v) is int and v >= 0 for v in value):
            return "x".join(map(str, value))
        return _listed(value)
    return f'"{value}"' if isinstance(value, str) and not isinstance(value, Word) else str(value)


def _listed(value: Value) -> str:
    """Tuples inside one another by brackets only: ``(0x1, 1x0)`` would look like two sizes."""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_listed, value)) + ")"
    return show(value)


def _unfit(value: Value, wanted: str, span: Span, context: Context) -> Failed:
    if isinstance(value, Word):
        return unknown_name(value, value.span, context.names)
    return failure("E218", f"{wanted} is needed here, not {show(value)[:60]}", span)


def _atom(expr: ast.Expr, context: Context, depth: int) -> Value:
    context.spend(expr.span)
    match expr:
        case ast.Number(value=value) if isinstance(value, int):
            return _bounded(value, expr.span, context)
        case ast.Number() | ast.Text():
            return expr.value
        case ast.Dims():
            return expr.values
        case ast.Name():
            return _named(expr, context)
        case ast.ShapeOf():
            return context.shape_of(expr)
        case ast.Tuple():
            items = tuple(evaluate(item, context, depth + 1) for item in expr.items)
            if _leaves(items) > context.limits.values:
                raise Failed(exceeded("values in a tuple", context.limits.values, expr.span))
            if _levels(items) > TUPLE_DEPTH:
                raise Failed(exceeded("tuples inside one another", TUPLE_DEPTH, expr.span))
            return items
        case ast.Unary(operator="not"):
            operand = evaluate(expr.operand, context, depth + 1)
            return not condition(operand, expr.operand.span, context)
        case ast.Unary():
            operand = evaluate(expr.operand, context, depth + 1)
            return -number(operand, expr.operand.span, context)
        case ast.Binary():
            raise AssertionError("evaluate() takes operators apart")


def _named(name: ast.Name, context: Context) -> Value:
    found = context.names.get(name.id)
    if isinstance(found, Unknown):
        raise Poisoned
    if found is not None:
        return found
    return WORDS.get(name.id, Word.at(name.id, name.span))


def _leaves(value: Value) -> int:
    return sum(map(_leaves, value)) if isinstance(value, tuple) else 1


def _levels(value: Value) -> int:
    return 1 + max(map(_levels, value), default=0) if isinstance(value, tuple) else 0


_ARITHMETIC: dict[str, Callable[[int | float, int | float], int | float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_ORDER: dict[str, Callable[[int | float, int | float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _binary(node: ast.Binary, left: Value, context: Context, depth: int) -> Value:
    symbol = node.operator
    if symbol in ("and", "or"):
        first = condition(left, node.left.span, context)
        if first == (symbol == "or"):
            return first
        return condition(evaluate(node.right, context, depth + 1), node.right.span, context)
    right = evaluate(node.right, context, depth + 1)
    if symbol in ("==", "!="):
        return _equal(node, left, right, context) == (symbol == "==")
    a = number(left, node.left.span, context)
    b = number(right, node.right.span, context)
    if symbol in _ORDER:
        return _ORDER[symbol](a, b)
    if symbol in ("/", "//"):
        return _bounded(_divide(node, a, b), node.span, context)
    if symbol == "**":
        return _bounded(_power(node, a, b, context), node.span, context)
    return _bounded(_ARITHMETIC[symbol](a, b), node.span, context)


def _equal(node: ast.Binary, left: Value, right: Value, context: Context) -> bool:
    kinds = [
        bool if isinstance(v, bool) else str if isinstance(v, str) else type(v)
        for v in (left, right)
    ]
    numbers = all(kind in (int, float) for kind in kinds)
    if kinds[0] is not kinds[1] and not numbers:
        for value in (left, right):
            if isinstance(value, Word):
                raise unknown_name(value, value.span, context.names)
        raise failure("E218", f"{show(left)[:60]} and {show(right)[:60]} never compare", node.span)
    return left == right


def _divide(node: ast.Binary, a: int | float, b: int | float) -> int | float:
    if b == 0:
        raise failure("E217", f"{show(a)} is divided by zero", node.span)
    if node.operator == "//":
        return a // b
    if isinstance(a, int) and isinstance(b, int):
        if a % b:
            raise failure(
                "E217", f"{a} / {b} leaves a remainder of {a % b}", node.span, "`//` rounds down"
            )
        return a // b
    return a / b


def _power(node: ast.Binary, a: int | float, b: int | float, context: Context) -> int | float:
    """a ** b, refused before it is worked out if the result cannot fit."""
    if isinstance(a, int) and isinstance(b, int):
        if b < 0:
            raise failure("E218", f"{a} ** {b} is no whole number", node.span)
        if abs(a) > 1 and b * (abs(a).bit_length() - 1) > 63:
            raise Failed(_too_large(node.span, context))
        return int(a**b)
    try:
        result = a**b
    except (OverflowError, ZeroDivisionError):
        raise Failed(_too_large(node.span, context)) from None
    if isinstance(result, complex):
        raise failure("E218", f"{show(a)} ** {show(b)} is no real number", node.span)
    return float(result)


def _bounded(value: int | float, span: Span, context: Context) -> int | float:
    if isinstance(value, float):
        if not isfinite(value):
            raise Failed(_too_large(span, context))
    elif abs(value) >= context.limits.integer:
        raise Failed(_too_large(span, context))
    return value


def _too_large(span: Span, context: Context) -> Diagnostic:
    return Diagnostic(
        "E304",
        f"a number of {context.limits.integer:,} or more",
        (Label(span),),
    )
