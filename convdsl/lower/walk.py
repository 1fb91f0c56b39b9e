"""Goes through a chain of the AST without recursion: every item, call, reference, expression."""

from collections.abc import Iterator
from dataclasses import dataclass

from convdsl.syntax import ast

NO_NAMES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Seen:
    """A node of a chain with the loop variables in reach there."""

    node: ast.Call | ast.Reference | ast.Repeat | ast.Condition | ast.Tag | ast.Note
    loops: frozenset[str]


def walk(chain: ast.Chain) -> Iterator[Seen]:
    """Every call, reference and postfix of ``chain``, in the order written."""
    pending: list[tuple[ast.Chain | ast.Primary | ast.Item | Seen, frozenset[str]]]
    pending = [(chain, NO_NAMES)]
    while pending:
        node, loops = pending.pop()
        match node:
            case Seen():
                yield node
            case ast.Chain():
                pending += [(item, loops) for item in reversed(node.items)]
            case ast.Group():
                pending.append((node.chain, loops))
            case ast.Reference():
                yield Seen(node, loops)
            case ast.Call():
                yield Seen(node, loops)
                pending += [(branch, loops) for branch in reversed(node.branches)]
            case ast.Item():
                pending += reversed(_parts(node, loops))


def _parts(
    item: ast.Item, loops: frozenset[str]
) -> list[tuple[ast.Chain | ast.Primary | ast.Item | Seen, frozenset[str]]]:
    """The body and the postfixes; a postfix stands outside the loops written before it."""
    parts: list[tuple[ast.Chain | ast.Primary | ast.Item | Seen, frozenset[str]]] = []
    inner = loops
    for post in reversed(item.posts):
        parts.append((Seen(post, inner), inner))
        if isinstance(post, ast.Condition) and post.otherwise is not None:
            parts.append((post.otherwise, inner))
        if isinstance(post, ast.Repeat) and isinstance(post.count, ast.Loop):
            inner = inner | set(post.count.names)
    parts.append((item.body, inner))
    return parts[::-1]


def operators(expr: ast.Expr) -> Iterator[ast.Expr]:
    """Every part of an expression, itself included."""
    pending = [expr]
    while pending:
        node = pending.pop()
        yield node
        match node:
            case ast.Binary():
                pending += (node.right, node.left)
            case ast.Unary():
                pending.append(node.operand)
            case ast.Tuple():
                pending += reversed(node.items)


def expressions(node: object) -> Iterator[ast.Expr]:
    """The expressions standing directly in a call, head, default, repeat or condition."""
    match node:
        case ast.Call() | ast.Head() | ast.Default():
            yield from (argument.value for argument in node.arguments)
        case ast.Condition():
            yield node.test
        case ast.Repeat(count=ast.Loop(elements=elements)):
            for element in elements:
                if isinstance(element, ast.Range):
                    yield from (element.first, element.last)
                else:
                    yield element
        case ast.Repeat(count=count) if not isinstance(count, ast.Loop):
            yield count
