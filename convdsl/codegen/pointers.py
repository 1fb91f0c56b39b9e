"""Text of Triton functions -> which of their tensors they load from and which they store to.

Goes through the source in order and keeps what every name may point to; both sides of a branch may
be taken, and a loop may run any number of times. A function that is called with pointers does with
them what its own text says. Assumes that no function returns a pointer. Does not know which
elements are touched.
"""

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: what names may point to: tensors by their parameter, ``aux[2]`` for one of a tuple
Targets = dict[str, frozenset[str]]
_NOTHING: frozenset[str] = frozenset()


@dataclass
class Accesses:
    """The tensors of a kernel that it loads from and stores to, by parameter."""

    loads: set[str] = field(default_factory=set)
    stores: set[str] = field(default_factory=set)


def functions_of(text: str) -> dict[str, ast.FunctionDef]:
    """The top-level functions of a module by name."""
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def accesses(
    functions: Mapping[str, ast.FunctionDef], nest: str, holes: Mapping[str, str]
) -> Accesses:
    """Of the kernel ``nest``; ``holes`` names the functions that are passed to it."""
    reader = _Reader(functions, holes)
    reader.run(functions[nest].body, {p: frozenset({p}) for p in _parameters(functions[nest])})
    return reader.found


def _parameters(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


class _Reader:
    def __init__(self, functions: Mapping[str, ast.FunctionDef], holes: Mapping[str, str]) -> None:
        self.functions, self.holes = functions, holes
        self.found = Accesses()

    def run(self, body: Sequence[ast.stmt], targets: Targets) -> Targets:
        """What names may point to behind the statements; ``targets`` stays as it is."""
        now = dict(targets)
        for statement in body:
            match statement:
                case ast.For(body=inner) | ast.While(body=inner):
                    head = statement.iter if isinstance(statement, ast.For) else statement.test
                    self.expression(head, now)
                    while (behind := _either(now, self.run(inner, now))) != now:
                        now = behind
                case ast.If(test=test, body=yes, orelse=no):
                    self.expression(test, now)
                    now = _either(self.run(yes, now), self.run(no, now))
                case ast.Assign(value=value, targets=places):
                    self.expression(value, now)
                    for place in places:
                        _assign(place, value, now)
                case ast.AnnAssign(value=ast.expr() as value, target=place):
                    self.expression(value, now)
                    _assign(place, value, now)
                case ast.AugAssign(value=value):  # a pointer that moves stays in its tensor
                    self.expression(value, now)
                case ast.Expr(value=value) | ast.Return(value=ast.expr() as value):
                    self.expression(value, now)
        return now

    def expression(self, expression: ast.expr, targets: Targets) -> None:
        """The loads and stores of all calls in it."""
        for call in (node for node in ast.walk(expression) if isinstance(node, ast.Call)):
            called = call.func
            if isinstance(called, ast.Name):
                function = self.functions.get(self.holes.get(called.id, called.id))
                if function is not None:
                    given = dict(zip(_parameters(function), call.args, strict=False))
                    given |= {k.arg: k.value for k in call.keywords if k.arg is not None}
                    self.run(function.body, {p: _pointed(a, targets) for p, a in given.items()})
            elif isinstance(called, ast.Attribute) and called.attr in ("load", "store"):
                # tl.load(pointer), or the method of a descriptor
                pointer = call.args[0] if _is_language(called.value) else called.value
                side = self.found.loads if called.attr == "load" else self.found.stores
                side |= _pointed(pointer, targets)


def _either(one: Targets, other: Targets) -> Targets:
    return {k: one.get(k, _NOTHING) | other.get(k, _NOTHING) for k in one.keys() | other.keys()}


def _assign(place: ast.expr, value: ast.expr, targets: Targets) -> None:
    if isinstance(place, ast.Tuple):
        alike = isinstance(value, ast.Tuple) and len(value.elts) == len(place.elts)
        parts = value.elts if isinstance(value, ast.Tuple) and alike else [value] * len(place.elts)
        # the right side is worked out before anything is assigned
        before = dict(targets)
        for name, part in zip(place.elts, parts, strict=True):
            if isinstance(name, ast.Name):
                targets[name.id] = _pointed(part, before)
    elif isinstance(place, ast.Name):
        targets[place.id] = _pointed(value, targets)


def _is_language(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id == "tl"


def _pointed(expression: ast.expr, targets: Targets) -> frozenset[str]:
    """The tensors an expression may point to; a number or what was loaded points to none."""
    match expression:
        case ast.Name(id=name):
            return targets.get(name, _NOTHING)
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int(place))):
            return frozenset(f"{target}[{place}]" for target in targets.get(name, _NOTHING))
        case ast.Subscript(slice=ast.UnaryOp()):  # from behind: no tensor stands there
            return _NOTHING
        case ast.Subscript(value=value):
            return _pointed(value, targets)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return _union((left, right), targets)
        case ast.IfExp(body=body, orelse=orelse):
            return _union((body, orelse), targets)
        case ast.Tuple(elts=elements):
            return _union(elements, targets)
        case ast.Call(func=ast.Attribute(value=owner, attr=attribute), args=arguments):
            if not _is_language(owner):  # pointer.to(...); what a descriptor loads is a number
                return _NOTHING if attribute == "load" else _pointed(owner, targets)
            return _NOTHING if attribute == "load" else _union(arguments, targets)
    return _NOTHING


def _union(expressions: Iterable[ast.expr], targets: Targets) -> frozenset[str]:
    return frozenset().union(*(_pointed(e, targets) for e in expressions))
