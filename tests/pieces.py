"""Pieces of programs: a small syntax tree that gives text, and the type it makes of a type.

It stands between drawing a random program and its text, so that a piece can be repeated, called or
placed on another tensor and asked whether it still fits. Shapes come from the layers' own rules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import convdsl.ops  # noqa: F401  (registers the layers)
from convdsl.ir.arguments import ArgumentError
from convdsl.ir.op import LAYERS, Layer, ShapeError
from convdsl.ir.types import TensorType

Names = Mapping[str, Any]

#: largest tensor of one sample and largest weight: what the interpreter runs in no time
MOST_ELEMENTS = 405
MOST_WEIGHTS = 3000


@dataclass(frozen=True)
class Argument:
    """Text of an argument and its value, which may depend on names and on the current tensor."""

    text: str
    value: Callable[[Names, TensorType], Any]


class MisfitError(Exception):
    """This piece of a program does not fit here."""


class Piece:
    """A part of a chain: ``text`` is its source, ``result`` the type it makes of a type."""

    text: str

    def result(self, x: TensorType, names: Names) -> TensorType:
        """Raises MisfitError."""
        raise NotImplementedError


@dataclass(frozen=True)
class Use(Piece):
    """``NAME(argument=value, ...){branch | branch}``."""

    name: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    branches: tuple[Piece, ...] = ()

    @property
    def text(self) -> str:
        inside = ", ".join(f"{key}={a.text}" for key, a in self.arguments.items())
        branches = " | ".join(b.text for b in self.branches)
        return self.name + (f"({inside})" if inside else "") + (branches and f"{{{branches}}}")

    def op(self, x: TensorType, names: Names) -> Layer:
        cls = LAYERS[self.name]
        specs = {key: s for s in cls.arguments() for key in (s.name, s.letter)}
        values = {}
        for key, argument in self.arguments.items():
            try:
                values[specs[key].name] = specs[key].convert(argument.value(names, x))
            except ArgumentError as error:
                raise MisfitError from error
        return cls(**values)

    def result(self, x: TensorType, names: Names) -> TensorType:
        inputs = [b.result(x, names) for b in self.branches] or [x]
        op = self.op(x, names)
        if op.flattens:
            inputs = [i.with_shape(i.elements) for i in inputs]
        try:
            y = op.shape(*inputs)
            weights = [prod(p.shape) for p in op.parameters(*inputs).values()]
        except ShapeError as error:
            raise MisfitError from error
        if y.elements > MOST_ELEMENTS or max(weights, default=0) > MOST_WEIGHTS:
            raise MisfitError
        return y


@dataclass(frozen=True)
class Chain(Piece):
    """``a - b - c``; in a group where it is part of something else."""

    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return " - ".join(p.text for p in self.pieces)

    def result(self, x: TensorType, names: Names) -> TensorType:
        for piece in self.pieces:
            x = piece.result(x, names)
        return x


@dataclass(frozen=True)
class Repeat(Piece):
    """``(body)*3``, or ``[body]*(k in 2, 3)`` with a loop variable."""

    body: Piece
    times: tuple[dict[str, int], ...]
    brackets: str

    @property
    def text(self) -> str:
        group = f"{self.brackets[0]}{self.body.text}{self.brackets[1]}"
        loop = self.times[0]
        if not loop:
            return f"{group}*{len(self.times)}"
        values = [tuple(t.values()) for t in self.times]
        shown = [str(v[0]) if len(v) == 1 else f"({', '.join(map(str, v))})" for v in values]
        return f"{group}*({', '.join(loop)} in {', '.join(shown)})"

    def result(self, x: TensorType, names: Names) -> TensorType:
        for time in self.times:
            x = self.body.result(x, {**names, **time})
        return x


@dataclass(frozen=True)
class Condition(Piece):
    """``(body)?(@.C > 3)``, with or without ``else (other)``."""

    body: Piece
    bound: int
    other: Piece | None

    @property
    def text(self) -> str:
        otherwise = f" else ({self.other.text})" if self.other else ""
        return f"({self.body.text})?(@.C > {self.bound}){otherwise}"

    def result(self, x: TensorType, names: Names) -> TensorType:
        if x.channels > self.bound:
            return self.body.result(x, names)
        return self.other.result(x, names) if self.other else x


@dataclass(frozen=True)
class Call(Piece):
    """A call of a block or module. A module's uses must agree: ``fixed`` is the type it takes."""

    name: str
    body: Piece
    arguments: dict[str, int]
    fixed: TensorType | None = None

    @property
    def text(self) -> str:
        inside = ", ".join(f"{k}={v}" for k, v in self.arguments.items())
        return f"{self.name}({inside})" if inside else self.name

    def result(self, x: TensorType, names: Names) -> TensorType:
        if self.fixed is not None and x != self.fixed:
            raise MisfitError
        return self.body.result(x, self.arguments)


@dataclass(frozen=True)
class Tagged(Piece):
    """``(body) as name :: shape``."""

    body: Piece
    name: str
    note: str

    @property
    def text(self) -> str:
        tag = f" as {self.name}" if self.name else ""
        return f"({self.body.text}){tag}{self.note}"

    def result(self, x: TensorType, names: Names) -> TensorType:
        return self.body.result(x, names)


@dataclass(frozen=True)
class Reference(Piece):
    """``@name``, whose type is known."""

    name: str
    kind: TensorType

    @property
    def text(self) -> str:
        return f"@{self.name}"

    def result(self, x: TensorType, names: Names) -> TensorType:
        return self.kind


def fits(piece: Piece, x: TensorType, names: Names) -> bool:
    """Whether ``piece`` can stand where ``x`` arrives."""
    try:
        piece.result(x, names)
    except MisfitError:
        return False
    return True
