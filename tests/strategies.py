"""Random well-typed programs as `.cnn` text, from whatever layers the registry holds.

No layer is named here: arguments are drawn from what their converters accept, and what would not
fit is left out, by the rules of the layers themselves.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from convdsl.ir.arguments import ArgumentError, ArgumentSpec
from convdsl.ir.op import HEADS, LAYERS, Layer, ShapeError
from convdsl.ir.types import Notation, TensorType
from convdsl.lower.evaluate import show
from convdsl.lower.layers import flattening
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
#: layers that need no argument
BARE = [n for n, cls in UNARY.items() if not any(s.required for s in cls.arguments())]
#: layers that move, mix or weigh numbers
STRUCTURAL = {
    name: cls
    for name, cls in UNARY.items()
    if cls.window is not Layer.window or cls.parameters is not Layer.parameters
}


def made_of(cls: type[Layer], *shape: int) -> tuple[int, ...]:
    """The shape a layer with the fewest arguments makes of ``shape``, () if it cannot be said."""
    try:
        op = cls(**{spec.name: spec.convert(2) for spec in cls.arguments() if spec.required})
        return () if cls.flattens else op.shape(TensorType(shape)).shape
    except (ArgumentError, ShapeError):
        return ()  # it needs words, or a tensor of another kind


#: those that leave a map a map and a sequence a sequence, by the length of the shape: drawn more
#: often so that programs stay interesting for long
SPATIAL = {
    len(shape): {n: cls for n, cls in STRUCTURAL.items() if len(made_of(cls, *shape)) == len(shape)}
    for shape in ((2, 6, 6), (2, 6))
}
#: those that make one number of every channel
GATES = [name for name in BARE if made_of(LAYERS[name], 2, 6, 6) == (2,)]


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
        # those without a place matter little to shapes, and there are many of them
        if not spec.required and draw(st.integers(0, 5 if spec.by_name else 1)) > 0:
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
    table = draw(st.sampled_from([UNARY, UNARY, STRUCTURAL, SPATIAL.get(len(x.shape), UNARY)]))
    name = draw(st.sampled_from(sorted(table)))
    cls = table[name]
    chosen = arguments(draw, cls, names)
    needed = {key for s in cls.arguments() if s.required for key in (s.name, s.letter)}
    while not fits(Use(name, chosen), x, names):
        spare = [key for key in chosen if key not in needed]
        if not spare:
            # what it needs does not fit either: the layers that need nothing and keep the shape do
            simple = [n for n in BARE if n not in STRUCTURAL and fits(Use(n), x, names)]
            return Use(draw(st.sampled_from(simple)))
        del chosen[spare[-1]]
    return Use(name, chosen)


@dataclass
class Program:
    """What is being drawn: statements before the net, and the tags the net has so far."""

    draw: Draw
    statements: list[str] = field(default_factory=list)
    recipes: list[Call] = field(default_factory=list)
    merges: tuple[str, ...] = tuple(sorted(MERGES))
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
            if len(self.merges) < len(MERGES):  # programs that are about these
                kinds += [self.merge] * 4
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
        return self.recipe(self.draw(st.sampled_from(["block", "module"])), x, names, depth)

    def recipe(self, word: str, x: TensorType, names: Names, depth: int) -> Call:
        """A new block or module, written above the net."""
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
        name = self.draw(st.sampled_from(self.merges))
        branches = [self.branch(x, names, depth)]
        for _ in range(self.draw(st.integers(1, 2))):
            other = self.branch(x, names, depth)
            together = Use(name, branches=(*branches, other))
            branches.append(other if fits(together, x, names) else branches[0])
        if self.draw(st.booleans()):
            branches.reverse()
        return merged(name, branches, x, names)

    def branch(self, x: TensorType, names: Names, depth: int) -> Piece:
        kind = self.draw(st.integers(0, 5))
        if self.tags and kind < 3:
            tag = self.draw(st.sampled_from(sorted(self.tags)))
            return Reference(tag, self.tags[tag])
        gates = [name for name in GATES if fits(Use(name), x, names)]
        if gates and kind == 5:
            activations = sorted(n for n in BARE if LAYERS[n].is_activation)
            first, then = self.draw(st.sampled_from(gates)), self.draw(st.sampled_from(activations))
            return Chain((Use(first), Use(then)))
        return self.chain(x, names, depth, 2)

    def together(self, names: Names) -> Piece:
        """Two inputs become one tensor: through a module that they share, if it suits both."""
        (first, x), (second, y) = self.tags.items()
        ends: list[Piece] = [Reference(first, x), Reference(second, y)]
        if self.draw(st.booleans()):
            shared = self.recipe("module", x, names, 1)
            if all(fits(Chain((end, shared)), x, names) for end in ends):
                ends = [Chain((end, shared)) for end in ends]
        fitting = [
            piece
            for name in sorted(MERGES)
            if fits(piece := merged(name, ends, x, names), x, names)
        ]
        return self.draw(st.sampled_from(fitting)) if fitting else Reference(second, y)


def merged(name: str, branches: list[Piece], x: TensorType, names: Names) -> Piece:
    """The merge, of the first two alone or of vectors if it asks for that and they are none."""
    flat = [Chain((branch, Use(flattening().name))) for branch in branches[:2]]
    for some in (branches, branches[:2], flat):
        if fits(Use(name, branches=tuple(some)), x, names):
            return Use(name, branches=tuple(some))
    return Use(name, branches=tuple(branches))


def shapes(draw: Draw) -> tuple[str, TensorType]:
    """An input as written and its type: mostly maps, now and then a vector or a sequence."""
    channels, height, width = draw(st.tuples(st.integers(1, 5), *[st.integers(1, 9)] * 2))
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return str(channels + 1), TensorType((channels + 1,))
    if kind == 1:
        return f"{channels}@{height + 3}", TensorType((channels, height + 3))
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


def inputs_of(draw: Draw) -> list[tuple[str, str, TensorType]]:
    """Name, text and type of the inputs: one without a name, or two that are often alike."""
    text, kind = shapes(draw)
    if draw(st.integers(0, 3)) > 0:
        return [("", text, kind)]
    others = [(text, kind), (text, kind), (str(kind.channels), TensorType((kind.channels,)))]
    return [("left", text, kind), ("right", *draw(st.sampled_from(others)))]


@st.composite
def programs(draw: Draw, items: int = 5, depth: int = 2, merges: Sequence[str] = ()) -> str:
    """The text of a program that compiles; with ``merges``, one that merges often and by these."""
    program = Program(draw, merges=tuple(merges or sorted(MERGES)))
    inputs = inputs_of(draw)
    x = inputs[0][2]
    lets = {"width": draw(st.integers(1, 4))} if draw(st.booleans()) else {}
    pieces: list[Piece] = []
    y = x
    if len(inputs) > 1:
        program.tags = {name: kind for name, _, kind in inputs}
        pieces.append(program.together(lets))
        y = pieces[0].result(x, lets)
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
    lines += [f"input {name}: {text}" if name else f"input {text}" for name, text, _ in inputs]
    lines += program.statements
    lines.append(f"net Random = {net.text}{head(draw, y, source)}")
    if program.tags and draw(st.integers(0, 3)) == 0:
        tag = draw(st.sampled_from(sorted(program.tags)))
        more = program.chain(program.tags[tag], lets, 0, 2)
        end = more.result(program.tags[tag], lets)
        lines.append(f"output side = @{tag} - {more.text}{head(draw, end, source + more.text)}")
    return "\n".join(lines) + "\n"
