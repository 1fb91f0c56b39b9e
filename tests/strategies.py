"""Random well-typed programs as `.cnn` text, from whatever layers the registry holds.

No layer is named here: arguments are drawn from what their converters accept, and what would not
fit is left out, by the rules of the layers themselves.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from convdsl.ir.arguments import ArgumentError, ArgumentSpec
from convdsl.ir.op import HEADS, LAYERS, Layer, ShapeError
from convdsl.ir.types import Notation, TensorType
from convdsl.lower.evaluate import show
from tests.pieces import (
    Argument,
    Call,
    Chain,
    Condition,
    Names,
    Piece,
    Reference,
    Repeat,
    Tagged,
    Use,
    fits,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]

#: values offered to every argument; its converter decides which of them it takes
OFFERED: tuple[Any, ...] = (
    *(0, 1, 2, 3, 4, 5, 6),
    *(0.0, 0.1, 0.25, 0.5, 1.5),
    *(False, True),
    *((1, 1), (1, 2), (2, 1), (3, 2), (1, 5), (4, 3)),
    *(((1, 0), (0, 1)), ((0, 2), (1, 1)), ((1, 1), (0, 0))),
)
MERGES = {name: cls for name, cls in LAYERS.items() if cls.arity == 0}
UNARY = {name: cls for name, cls in LAYERS.items() if cls.arity == 1}
#: layers that move, mix or weigh numbers
STRUCTURAL = {
    name: cls
    for name, cls in UNARY.items()
    if cls.window is not Layer.window or cls.parameters is not Layer.parameters
}


def keeps_map(cls: type[Layer]) -> bool:
    """A layer that makes maps of maps."""
    op = cls(**{spec.name: spec.convert(2) for spec in cls.arguments() if spec.required})
    return not cls.flattens and op.shape(TensorType((2, 6, 6))).is_map


#: those that leave a map a map, drawn more often so that programs stay interesting for long
SPATIAL = {name: cls for name, cls in STRUCTURAL.items() if keeps_map(cls)}


def literal(value: Any) -> Argument:
    """An argument that is a value as the language writes it."""
    text = value if isinstance(value, str) else show(value)
    return Argument(text, lambda names, x: value)


def accepted(spec: ArgumentSpec) -> list[Any]:
    """Values an argument takes: of those offered, and the words its own refusal names."""
    words: list[str] = []
    try:
        spec.convert("no such word")
    except ArgumentError as error:
        words = re.findall(r"[a-z_]+", str(error))
    found = []
    for value in (*words, *OFFERED):
        try:
            spec.convert(value)
        except ArgumentError:
            continue
        found.append(value)
    return found


def arguments(draw: Draw, cls: type[Layer], names: Names) -> dict[str, Argument]:
    """Some arguments, by letter or by name; whole numbers also as a name or an expression."""
    drawn = {}
    for spec in cls.arguments():
        if not spec.required and draw(st.booleans()):
            continue
        values = accepted(spec)
        argument = literal(draw(st.sampled_from(values)))
        if 2 in values and 2.5 not in values and draw(st.integers(0, 3)) == 0:
            computed = [Argument("@.C", lambda names, x: x.channels)]
            computed += [Argument(n, lambda names, x, n=n: names[n]) for n in names]
            computed += [Argument(f"2*{n}", lambda names, x, n=n: 2 * names[n]) for n in names]
            argument = draw(st.sampled_from(computed))
        key = spec.letter if spec.letter and draw(st.booleans()) else spec.name
        drawn[key] = argument
    return drawn


def layer(draw: Draw, x: TensorType, names: Names) -> Piece:
    """A layer that fits ``x``: optional arguments that do not are left out."""
    table = draw(st.sampled_from([UNARY, UNARY, STRUCTURAL, SPATIAL if x.is_map else UNARY]))
    name = draw(st.sampled_from(sorted(table)))
    cls = table[name]
    chosen = arguments(draw, cls, names)
    needed = {key for s in cls.arguments() if s.required for key in (s.name, s.letter)}
    while not fits(Use(name, chosen), x, names):
        spare = [key for key in chosen if key not in needed]
        if not spare:
            # what it needs does not fit either: the layers that need nothing and keep the shape do
            simple = [n for n in UNARY if n not in STRUCTURAL and fits(Use(n), x, names)]
            return Use(draw(st.sampled_from(simple)))
        del chosen[spare[-1]]
    return Use(name, chosen)


@dataclass
class Program:
    """What is being drawn: statements before the net, and the tags the net has so far."""

    draw: Draw
    statements: list[str] = field(default_factory=list)
    recipes: list[Call] = field(default_factory=list)
    tags: dict[str, TensorType] = field(default_factory=dict)

    def chain(self, x: TensorType, names: Names, depth: int, most: int) -> Chain:
        """A chain of 1 to ``most`` items that fits ``x``."""
        pieces: list[Piece] = []
        for _ in range(self.draw(st.integers(1, most))):
            piece = self.item(x, names, depth)
            pieces.append(piece)
            x = piece.result(x, names)
        return Chain(tuple(pieces))

    def item(self, x: TensorType, names: Names, depth: int) -> Piece:
        kinds: list[Callable[[TensorType, Names, int], Piece]] = [self.plain] * 3
        if depth > 0:
            kinds += [self.merge, self.merge, self.repeat, self.condition, self.call]
        piece = self.draw(st.sampled_from(kinds))(x, names, depth - 1)
        return piece if fits(piece, x, names) else self.plain(x, names, depth)

    def plain(self, x: TensorType, names: Names, depth: int) -> Piece:
        return layer(self.draw, x, names)

    def repeat(self, x: TensorType, names: Names, depth: int) -> Piece:
        variables = self.draw(st.sampled_from([(), ("k",), ("k", "m")]))
        count = self.draw(st.integers(1, 3))
        times = tuple({v: self.draw(st.integers(1, 4)) for v in variables} for _ in range(count))
        body = self.chain(x, {**names, **times[0]}, depth, 2)
        return Repeat(body, times, self.draw(st.sampled_from(["()", "[]"])))

    def condition(self, x: TensorType, names: Names, depth: int) -> Piece:
        other = self.chain(x, names, depth, 2) if self.draw(st.booleans()) else None
        bound = self.draw(st.integers(0, 6))
        return Condition(self.chain(x, names, depth, 2), bound, other)

    def call(self, x: TensorType, names: Names, depth: int) -> Piece:
        """A recipe that fits, or a new one."""
        usable = [r for r in self.recipes if fits(r, x, names)]
        if usable and self.draw(st.booleans()):
            return self.draw(st.sampled_from(usable))
        word = self.draw(st.sampled_from(["block", "module"]))
        values = {p: self.draw(st.integers(1, 4)) for p in self.draw(st.sampled_from(["", "k"]))}
        tags, self.tags = self.tags, {}  # out of reach inside a recipe
        body = self.chain(x, values, depth, 3)
        self.tags = tags
        name = f"{word}{len(self.recipes)}"
        recipe = Call(name, body, values, x if word == "module" else None)
        self.recipes.append(recipe)
        parameters = f"({', '.join(values)})" if values else ""
        self.statements.append(f"{word} {name}{parameters} = {body.text}")
        return recipe

    def merge(self, x: TensorType, names: Names, depth: int) -> Piece:
        """Branches that agree: what does not agree with the first is replaced by a copy of it."""
        name = self.draw(st.sampled_from(sorted(MERGES)))
        branches = [self.branch(x, names, depth)]
        for _ in range(self.draw(st.integers(1, 2))):
            other = self.branch(x, names, depth)
            together = Use(name, branches=(*branches, other))
            branches.append(other if fits(together, x, names) else branches[0])
        return Use(name, branches=tuple(branches))

    def branch(self, x: TensorType, names: Names, depth: int) -> Piece:
        if self.tags and self.draw(st.booleans()):
            tag = self.draw(st.sampled_from(sorted(self.tags)))
            return Reference(tag, self.tags[tag])
        return self.chain(x, names, depth, 2)


def shapes(draw: Draw) -> tuple[str, TensorType]:
    """An input as written and its type: mostly maps, now and then a vector."""
    channels, height, width = draw(st.tuples(st.integers(1, 5), *[st.integers(1, 9)] * 2))
    if draw(st.integers(0, 7)) == 0:
        return str(channels + 1), TensorType((channels + 1,))
    kind = TensorType((channels, height, width))
    return draw(st.sampled_from(list(Notation))).show(kind), kind


def head(draw: Draw, y: TensorType, source: str) -> str:
    """``, NAME`` if there is a head that can stand on ``y`` behind ``source``, else nothing."""
    suited = []
    for name, cls in HEADS.items():
        try:
            cls().check(y)
        except ShapeError:
            continue
        # the layer that the head contains must not come right before it
        if cls.absorbs is None or cls.absorbs not in source:
            suited.append(f", {name}")
    return draw(st.sampled_from(["", *suited]))


@st.composite
def programs(draw: Draw, items: int = 5, depth: int = 2) -> str:
    """The text of a program that compiles."""
    program = Program(draw)
    text, x = shapes(draw)
    lets = {"width": draw(st.integers(1, 4))} if draw(st.booleans()) else {}
    pieces: list[Piece] = []
    y = x
    for number in range(draw(st.integers(1, items))):
        piece = program.item(y, lets, depth)
        y = piece.result(y, lets)
        name = f"t{number}" if draw(st.integers(0, 2)) == 0 else ""
        note = f" :: {draw(st.sampled_from(list(Notation))).show(y)}" if draw(st.booleans()) else ""
        if name:
            program.tags[name] = y
        pieces.append(Tagged(piece, name, note) if name or note else piece)
    net = Chain(tuple(pieces))
    lines = [f"let {name} = {value}" for name, value in lets.items()]
    source = " ".join([*program.statements, net.text])
    lines += [*program.statements, f"input {text}"]
    lines.append(f"net Random = {net.text}{head(draw, y, source)}")
    if program.tags and draw(st.integers(0, 3)) == 0:
        tag = draw(st.sampled_from(sorted(program.tags)))
        more = program.chain(program.tags[tag], lets, 0, 2)
        end = more.result(program.tags[tag], lets)
        lines.append(f"output side = @{tag} - {more.text}{head(draw, end, source + more.text)}")
    return "\n".join(lines) + "\n"
