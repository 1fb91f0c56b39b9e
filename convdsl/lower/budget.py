"""One budget for a whole expansion, so that a short text cannot ask for unbounded work.

Counts what expansion makes and raises `Exhausted` at the first limit that is passed; the finding
(E304) names the limit. Limits on single values (integers, tuples, tensors) are only stored here.
"""

from dataclasses import dataclass

from convdsl.diagnostics import Diagnostic, Frame, Label
from convdsl.source import Span


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    layers: nodes of the graph, and repetitions of one item. steps: items visited, also those that
    a condition leaves out. operands: numbers and names worked out in expressions. imports: imported
    files; text: their characters together. depth: block calls inside one another, and imports
    likewise.
    nesting: items inside one another (groups, branches, repeats and calls together).
    elements: of one tensor of one sample. integer: bound of every integer's size.
    values: numbers inside one tuple, and parameters of one block. errors: reported in one run.
    """

    layers: int = 10_000
    steps: int = 50_000
    operands: int = 200_000
    imports: int = 256
    text: int = 1 << 20
    depth: int = 64
    nesting: int = 128
    elements: int = 2**40
    integer: int = 2**63
    values: int = 100
    errors: int = 100


class Exhausted(Exception):  # noqa: N818  (a state, not a kind of error)
    """A limit is reached: expansion ends here, with this finding."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


def exceeded(
    what: str, limit: int, span: Span | None, frames: tuple[Frame, ...] = ()
) -> Diagnostic:
    """The E304 finding for ``what``, at ``span`` if it has a place."""
    labels = (Label(span),) if span else ()
    return Diagnostic("E304", f"more than {limit:,} {what}", labels, frames)


class Budget:
    """The counters of one expansion."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._layers = 0
        self._steps = 0
        self._operands = 0
        self._level = 0

    def layer(self, span: Span, frames: tuple[Frame, ...]) -> None:
        """One more node of the graph."""
        self._layers += 1
        if self._layers > self.limits.layers:
            raise Exhausted(exceeded("layers", self.limits.layers, span, frames))

    def enter(self, span: Span, frames: tuple[Frame, ...]) -> None:
        """One more item, inside those entered and not yet left."""
        self._steps += 1
        self._level += 1
        if self._steps > self.limits.steps:
            raise Exhausted(exceeded("steps of expansion", self.limits.steps, span, frames))
        if self._level > self.limits.nesting:
            raise Exhausted(exceeded("items inside one another", self.limits.nesting, span, frames))

    def repeats(self, count: int, span: Span, frames: tuple[Frame, ...]) -> None:
        """A repeat of ``count`` times: refused before its first repetition is made."""
        if count > self.limits.layers:
            raise Exhausted(exceeded("repetitions", self.limits.layers, span, frames))

    def skip(self, span: Span) -> None:
        """One more item that is passed over because an earlier one failed."""
        self.enter(span, ())
        self.leave()

    def operand(self, span: Span) -> None:
        """One more number or name of an expression."""
        self._operands += 1
        if self._operands > self.limits.operands:
            raise Exhausted(exceeded("operands of expressions", self.limits.operands, span))

    def leave(self) -> None:
        self._level -= 1

    def calls(self, depth: int, span: Span, frames: tuple[Frame, ...]) -> None:
        """Block calls now standing inside one another."""
        if depth > self.limits.depth:
            raise Exhausted(exceeded("calls inside one another", self.limits.depth, span, frames))
