"""Grammar rules -> AST nodes: one method per rule, called by the parser as it reduces.

Calls arrive bottom-up, so nothing recurses however long the text is. Words carry their spans
(`convdsl.syntax.words`). Raises CompileError for what the grammar cannot say: the number of
sizes in a shape (E107) and the depth of an expression (E304).
"""

from dataclasses import dataclass, replace
from typing import Any

from lark import Transformer, v_args

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Span
from convdsl.syntax import ast
from convdsl.syntax.word import Word

MAX_EXPRESSION_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Arguments:
    """``(a, b=c)`` with its brackets; no node of the tree, only on the way to one."""

    items: tuple[ast.Argument, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Branches:
    """``{ a | b }``, likewise."""

    chains: tuple[ast.Chain, ...]
    end: Span


@v_args(inline=True)
class Build(Transformer[Word, Any]):
    """Methods are named after the rules and aliases of ``cnn.lark``. Stateless."""

    # ---- statements

    def bare_chain(self, chain: ast.Chain, head: ast.Head | None) -> tuple[ast.Statement, ...]:
        span = chain.span.to(head.span) if head else chain.span
        return (ast.Net("net", None, chain, head, span),)

    def statements(self, *statements: ast.Statement) -> tuple[ast.Statement, ...]:
        return statements

    def import_names(self, keyword: Word, path: Word, *names_and_end: Word) -> ast.Import:
        *names, end = names_and_end
        return ast.Import(
            path.text[1:-1],
            tuple((name.text, name.span) for name in names),
            path.span,
            keyword.span.to(end.span),
        )

    def let(self, keyword: Word, name: Word, value: ast.Expr) -> ast.Let:
        return ast.Let(name.text, shallow(value), name.span, keyword.span.to(value.span))

    def default(self, name: Word, *arguments_and_end: Any) -> ast.Default:
        *arguments, end = arguments_and_end
        return ast.Default(name.text, tuple(arguments), name.span, name.span.to(end.span))

    def default_statement(self, keyword: Word, default: ast.Default) -> ast.Default:
        return replace(default, span=keyword.span.to(default.span))

    def definition(
        self,
        keyword: Word,
        name: Word,
        parameters: tuple[ast.Parameter, ...] | None,
        body: ast.Chain,
    ) -> ast.Definition:
        span = keyword.span.to(body.span)
        return ast.Definition(keyword.text, name.text, parameters or (), body, name.span, span)

    def parameters(self, *parameters: ast.Parameter) -> tuple[ast.Parameter, ...]:
        return parameters

    def parameter(self, name: Word, default: ast.Expr | None) -> ast.Parameter:
        if default is None:
            return ast.Parameter(name.text, None, name.span)
        return ast.Parameter(name.text, shallow(default), name.span.to(default.span))

    def input(self, keyword: Word, name: Word | None, shape: ast.Shape) -> ast.Input:
        return ast.Input(name.text if name else None, shape, keyword.span.to(shape.span))

    def net(
        self, keyword: Word, name: Word | None, chain: ast.Chain, head: ast.Head | None
    ) -> ast.Net:
        span = keyword.span.to(head.span if head else chain.span)
        return ast.Net(keyword.text, name.text if name else None, chain, head, span)

    # ---- chains

    def chain(self, *items: ast.Item) -> ast.Chain:
        return ast.Chain(items, items[0].span.to(items[-1].span))

    def head(self, name: Word, arguments: Arguments | None) -> ast.Head:
        if arguments is None:
            return ast.Head(name.text, (), name.span, name.span)
        return ast.Head(name.text, arguments.items, name.span, name.span.to(arguments.span))

    def item(self, body: ast.Primary, *posts: ast.Post) -> ast.Item:
        return ast.Item(body, posts, body.span.to(posts[-1].span) if posts else body.span)

    def call(self, name: Word, arguments: Arguments | None, branches: Branches | None) -> ast.Call:
        end = branches.end if branches else arguments.span if arguments else name.span
        return ast.Call(
            name.text,
            arguments.items if arguments else (),
            branches.chains if branches else (),
            name.span,
            name.span.to(end),
        )

    def group(self, opening: Word, chain: ast.Chain, closing: Word) -> ast.Group:
        return ast.Group(chain, opening.span.to(closing.span))

    def reference(self, at: Word, name: Word) -> ast.Reference:
        return ast.Reference(name.text, at.span.to(name.span))

    def arguments(self, opening: Word, *items_and_end: Any) -> Arguments:
        *items, closing = items_and_end
        return Arguments(tuple(items), opening.span.to(closing.span))

    def argument(self, name: Word | None, value: ast.Expr) -> ast.Argument:
        if name is None:
            return ast.Argument(None, shallow(value), value.span)
        return ast.Argument(name.text, shallow(value), name.span.to(value.span))

    def branches(self, *chains_and_end: Any) -> Branches:
        *chains, closing = chains_and_end
        return Branches(tuple(chains), closing.span)

    # ---- what follows an item

    def repeat(self, star: Word, *count: Any) -> ast.Repeat:
        # integer | name | loop, or an expression between its parentheses
        value = count[0] if len(count) == 1 else count[1]
        if not isinstance(value, ast.Loop):
            shallow(value)
        return ast.Repeat(value, star.span.to(count[-1].span))

    def loop(self, opening: Word, names: tuple[str, ...], *elements_and_end: Any) -> ast.Loop:
        *elements, closing = elements_and_end
        for element in elements:
            if not isinstance(element, ast.Range):
                shallow(element)
        return ast.Loop(names, tuple(elements), opening.span.to(closing.span))

    def names(self, *names: Word) -> tuple[str, ...]:
        return tuple(name.text for name in names)

    def range(self, first: ast.Expr, last: ast.Expr) -> ast.Range:
        return ast.Range(shallow(first), shallow(last), first.span.to(last.span))

    def condition(
        self, mark: Word, test: ast.Expr, closing: Word, otherwise: ast.Primary | None
    ) -> ast.Condition:
        end = otherwise.span if otherwise else closing.span
        return ast.Condition(shallow(test), otherwise, mark.span.to(end))

    def tag(self, keyword: Word, name: Word) -> ast.Tag:
        return ast.Tag(name.text, keyword.span.to(name.span))

    def note(self, mark: Word, shape: ast.Shape) -> ast.Note:
        return ast.Note(shape, mark.span.to(shape.span))

    # ---- shapes

    def channels_first(self, channels: Word, rest: Word) -> ast.Shape:
        sizes = _sizes(rest)
        notation = "C@L" if rest.type == "INT" else "C@HW"
        return _shape(notation, (*_sizes(channels), *sizes), channels.span.to(rest.span))

    def channels_last(self, dims: Word) -> ast.Shape:
        return _shape("HWC", _sizes(dims), dims.span)

    def vector(self, size: Word) -> ast.Shape:
        return _shape("N", _sizes(size), size.span)

    # ---- expressions

    def fold(self, *children: Any) -> ast.Expr:
        """``a + b - c`` as ((a + b) - c)."""
        result: ast.Expr = children[0]
        for operator, right in zip(children[1::2], children[2::2], strict=True):
            result = ast.Binary(operator.text, result, right, result.span.to(right.span))
        return result

    expr = conjunction = comparison = sum = product = power = fold

    def unary(self, operator: Word, operand: ast.Expr) -> ast.Unary:
        return ast.Unary(operator.text, operand, operator.span.to(operand.span))

    def tuple(self, opening: Word, *items_and_end: Any) -> ast.Tuple:
        *items, closing = items_and_end
        return ast.Tuple((*items,), opening.span.to(closing.span))

    def parenthesised(self, opening: Word, inner: ast.Expr, closing: Word) -> ast.Expr:
        return replace(inner, span=opening.span.to(closing.span))

    def shape_of(self, at: Word, tag: Word | None, axis: Word) -> ast.ShapeOf:
        return ast.ShapeOf(tag.text if tag else None, axis.text, at.span.to(axis.span))

    def integer(self, word: Word) -> ast.Number:
        return ast.Number(int(word.text), word.span)

    def float(self, word: Word) -> ast.Number:
        return ast.Number(float(word.text), word.span)

    def text(self, word: Word) -> ast.Text:
        return ast.Text(word.text[1:-1], word.span)

    def dims(self, word: Word) -> ast.Dims:
        return ast.Dims(_sizes(word), word.span)

    def name(self, word: Word) -> ast.Name:
        return ast.Name(word.text, word.span)


def shallow(expr: ast.Expr) -> ast.Expr:
    """``expr``, if later stages can walk it recursively. Raises CompileError (E304)."""
    if not isinstance(expr, ast.Binary | ast.Unary | ast.Tuple):
        return expr
    left: list[tuple[ast.Expr, int]] = [(expr, 1)]
    while left:
        node, depth = left.pop()
        if depth > MAX_EXPRESSION_DEPTH:
            raise CompileError(
                [
                    Diagnostic(
                        "E304",
                        f"the expression is nested deeper than {MAX_EXPRESSION_DEPTH}",
                        (Label(expr.span, "this expression"),),
                        help="name its parts with `let`",
                    )
                ]
            )
        if isinstance(node, ast.Binary):
            left += ((node.left, depth + 1), (node.right, depth + 1))
        elif isinstance(node, ast.Unary):
            left.append((node.operand, depth + 1))
        elif isinstance(node, ast.Tuple):
            left += ((item, depth + 1) for item in node.items)
    return expr


def _sizes(word: Word) -> tuple[int, ...]:
    return tuple(int(size) for size in word.text.split("x"))


def _shape(notation: str, dims: tuple[int, ...], span: Span) -> ast.Shape:
    wanted = {"HWC": 3, "C@HW": 3, "C@L": 2, "N": 1}[notation]
    if len(dims) != wanted:
        if notation == "C@HW":
            message = f"after `@` come one or two sizes, not {len(dims) - 1}"
            help = "write 3@32x32 (channels @ height x width) or 3@128 (channels @ length)"
        else:
            message = f"a shape has three sizes, height x width x channels, not {len(dims)}"
            help = (
                f"add the channels: {span.text}x1 or 1@{span.text}"
                if len(dims) == 2
                else "leave out the batch; write 32x32x3 or 3@32x32"
            )
    elif 0 in dims:
        message, help = "a size in a shape is zero", "write sizes from 1 up"
    else:
        return ast.Shape(notation, dims, span)
    raise CompileError([Diagnostic("E107", message, (Label(span),), help=help)])
