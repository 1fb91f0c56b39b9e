"""The abstract syntax tree: what was written, each node with the span it was written at.

Produced by `convdsl.syntax.parser`, consumed by the expansion in `convdsl.lower`. Nothing here
knows any layer; a name is a name until lowering looks it up.
"""

from dataclasses import dataclass

from convdsl.source import Source, Span


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    span: Span


@dataclass(frozen=True, slots=True)
class Text:
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Dims:
    """``3x5`` inside an expression: a tuple of sizes, height first."""

    values: tuple[int, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    """A let, a block parameter, a loop variable or a word such as ``same``, ``true``."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class ShapeOf:
    """``@.C`` (``tag`` is None: the current tensor) or ``@e1.H``."""

    tag: str | None
    axis: str
    span: Span


@dataclass(frozen=True, slots=True)
class Tuple:
    items: tuple["Expr", ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str  # "-" or "not"
    operand: "Expr"
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str  # + - * / // ** == != < <= > >= and or
    left: "Expr"
    right: "Expr"
    span: Span


Expr = Number | Text | Dims | Name | ShapeOf | Tuple | Unary | Binary


@dataclass(frozen=True, slots=True)
class Argument:
    """``value`` or ``name=value`` in a call."""

    name: str | None
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """``NAME(arguments){branch | branch}``: a layer, a block or a module."""

    name: str
    arguments: tuple[Argument, ...]
    branches: tuple["Chain", ...]
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Group:
    """``( chain )`` or ``[ chain ]``; both only group."""

    chain: "Chain"
    span: Span


@dataclass(frozen=True, slots=True)
class Reference:
    """``@name``: go on from a tag or an input."""

    name: str
    span: Span


Primary = Call | Group | Reference


@dataclass(frozen=True, slots=True)
class Range:
    """``first .. last`` in a loop, both ends included."""

    first: Expr
    last: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Loop:
    """``(k, n in (64, 2), (128, 3))``: names zipped over elements."""

    names: tuple[str, ...]
    elements: tuple[Expr | Range, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Repeat:
    count: Expr | Loop
    span: Span


@dataclass(frozen=True, slots=True)
class Condition:
    """``?(test)`` keeps or leaves out; ``?(test) else other`` chooses."""

    test: Expr
    otherwise: Primary | None
    span: Span


@dataclass(frozen=True, slots=True)
class Tag:
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape as written: notation ``HWC`` (32x32x3), ``C@HW`` (3@32x32), ``C@L`` or ``N``."""

    notation: str
    dims: tuple[int, ...]  # in the order written
    span: Span


@dataclass(frozen=True, slots=True)
class Note:
    """``:: 55x55x96``, a checked shape note."""

    shape: Shape
    span: Span


Post = Repeat | Condition | Tag | Note


@dataclass(frozen=True, slots=True)
class Item:
    """One link of a chain: a primary and its postfixes, applied from left to right."""

    body: Primary
    posts: tuple[Post, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Chain:
    items: tuple[Item, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Head:
    name: str
    arguments: tuple[Argument, ...]
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Import:
    path: str
    names: tuple[tuple[str, Span], ...]
    path_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Let:
    name: str
    value: Expr
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Default:
    layer: str
    arguments: tuple[Argument, ...]
    layer_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a block or module, with its default if it has one."""

    name: str
    default: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Definition:
    """``block`` (fresh weights at every use) or ``module`` (shared weights)."""

    keyword: str  # "block" | "module"
    name: str
    parameters: tuple[Parameter, ...]
    body: Chain
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Input:
    name: str | None
    shape: Shape
    span: Span


@dataclass(frozen=True, slots=True)
class Net:
    """``net`` or ``output``: a chain with an optional head. A bare chain is a nameless net."""

    keyword: str  # "net" | "output"
    name: str | None
    chain: Chain
    head: Head | None
    span: Span


Statement = Import | Let | Default | Definition | Input | Net


@dataclass(frozen=True, slots=True)
class Program:
    source: Source
    statements: tuple[Statement, ...]
