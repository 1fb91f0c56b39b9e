"""Words and their tree -> lines: where a program breaks, and how far its lines are indented.

The author's line breaks between the items of a chain stay, as they tell its stages apart; so does
a bracket written over several lines. All other breaks come from the width alone. Chains and
brackets are placed here; what remains too long is broken by `convdsl.syntax.format_lines`.
"""

from dataclasses import dataclass, replace

from convdsl.syntax import ast
from convdsl.syntax.format_gaps import Gap, gaps
from convdsl.syntax.format_lines import STEP, WIDTH, Line, Piece
from convdsl.syntax.format_measure import Measure
from convdsl.syntax.format_spacing import spaced
from convdsl.syntax.word import Word


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chain stands: its first item and what opens in it, and the `-` of later lines."""

    text: int
    dash: int
    one_line: bool = False  # only brackets may break
    flat: bool = False  # nothing may

    @property
    def hanging(self) -> bool:
        return self.dash < self.text


def lay_out(words: list[Word], statements: tuple[ast.Statement, ...]) -> list[Line]:
    """The lines of a program. ``words``: all of it, the last being the end."""
    layout = Layout(words, gaps(words))
    for statement in statements:
        layout.statement(statement)
    layout.end()
    return layout.lines


class Layout:
    """Takes the words one by one, in the order of the tree."""

    def __init__(self, words: list[Word], between: list[Gap]) -> None:
        self.words = words
        self.gaps = between
        self.measure = Measure(words, between)
        self.index = 0
        self.lines: list[Line] = []
        self.number = 0  # of the statement
        self.chains = 0  # begun so far; each aligns its own notes
        self.inside = 0  # the chain being laid out

    # ---- words and lines

    @property
    def column(self) -> int:
        """How wide the line is so far."""
        return self.lines[-1].width

    def start(self, indent: int, *, inner: int | None = None, first: bool = False) -> None:
        """Begin a line for the next word; the comments before it come first, at ``inner``.

        first: of a bracket's or a chain's inside, where no empty line is kept.
        """
        gap = self.gaps[self.index]
        self.gaps[self.index] = replace(gap, comments=())
        hang = indent + STEP
        for comment in gap.comments:
            last = self.lines[-1] if self.lines else None
            if comment.trailing and last is not None and last.pieces and not last.comment:
                last.comment = comment.text
                continue
            blank = comment.after_blank and not first
            at = indent if inner is None else inner
            line = Line(at, hang, self.number, self.inside, blank, comment=comment.text)
            self.lines.append(line)
            first = False
        blank = gap.after_blank and not first and inner is None
        self.lines.append(Line(indent, hang, self.number, self.inside, blank))

    def take(self, pieces: list[Piece]) -> None:
        """Add the next words; a comment between them ends the line, the rest hangs below it."""
        for piece in pieces:
            if self.gaps[self.index].comments:
                hang = self.lines[-1].hang
                self.start(hang, first=True)
                self.lines[-1].hang = hang
            line = self.lines[-1]
            line.pieces.append(piece if line.pieces else replace(piece, space="", level=0))
            self.index += 1

    def take_to(self, end: int, space: str = "", mark: str = "", level: int = 1) -> None:
        """Add the words up to the one that begins at or behind the offset ``end``."""
        stop = self.index
        while self.words[stop].span.start < end:
            stop += 1
        pieces = spaced(self.words[self.index : stop], level, mark)
        if pieces:
            self.take([replace(pieces[0], space=space), *pieces[1:]])

    def skip(self) -> None:
        """Leave the next word out, its comments to the one behind it."""
        self._pass_on(self.index, self.index + 1)
        self.index += 1

    def _pass_on(self, giver: int, taker: int) -> None:
        """Comments before one word to the front of those before another."""
        given, own = self.gaps[giver], self.gaps[taker]
        self.gaps[giver] = replace(given, comments=())
        self.gaps[taker] = replace(own, comments=(*given.comments, *own.comments))

    def _before_sign(self) -> None:
        """Comments behind the sign that comes next, a joint or a bar, to before it."""
        own, behind = self.gaps[self.index : self.index + 2]
        self.gaps[self.index] = replace(
            own,
            comments=(*own.comments, *behind.comments),
            after_blank=own.after_blank or behind.after_blank,
        )
        self.gaps[self.index + 1] = replace(behind, comments=())

    # ---- statements

    def statement(self, statement: ast.Statement) -> None:
        self.number += 1
        self.chains += 1
        self.inside = self.chains
        self.start(0)
        chain = _chain(statement)
        if chain is None:
            self.take_to(statement.span.end)
            return
        head = statement.head if isinstance(statement, ast.Net) else None
        headless = chain.span.start == statement.span.start
        if isinstance(statement, ast.Definition):
            self._definition(statement)
        self.take_to(chain.span.start)
        suffix = self.measure.head(head)
        column = self.column + (not headless)
        if self.measure.on_one_line(chain, self.index, column, suffix):
            space = "" if headless else " "
            self.chain(chain, Place(0, 0, one_line=True), suffix, space)
        elif headless:
            self.chain(chain, Place(0, 0), suffix)
        else:
            self.start(STEP, first=True)
            self.chain(chain, Place(STEP, STEP - 2), suffix)
        if head is not None:
            self.take_to(head.span.end, mark="end", level=2)

    def _definition(self, statement: ast.Definition) -> None:
        """`block name` without the brackets that hold nothing."""
        self.take_to(statement.name_span.end)
        if not statement.parameters and self.words[self.index].type == "LPAR":
            self.skip()
            self.skip()
        if self.words[self.index].type == "EQUALS":
            self.take_to(self.words[self.index].span.end, space=" ")

    def end(self) -> None:
        """The comments behind the last word."""
        self.number += 1
        self.start(0)
        self.lines.pop()

    # ---- chains

    def chain(self, chain: ast.Chain, place: Place, suffix: int, space: str = "") -> None:
        """The items of a chain, broken where the author broke it and where one does not fit.

        suffix: width of what must stand behind the last item. space: before the first.
        """
        breaks = not (place.one_line or place.flat)
        tight = not breaks and self.measure.tight(chain)
        last = chain.items[-1]
        base = place.text
        for item in chain.items:
            behind = suffix if item is last else 0
            if item is chain.items[0]:
                self.item(item, base, behind, space, place.flat)
                continue
            opening = self.measure.opening(item) + (0 if self.measure.is_open(item) else behind)
            if breaks and (self._broken() or self.column + 3 + opening > WIDTH):
                self._before_sign()
                base = place.text if place.hanging else place.text + 2
                self.start(place.dash)
                self.lines[-1].hang = base + STEP
                self._joint("")
                self.item(item, base, behind, " ", False)
            else:
                self._joint("" if tight else " ")
                self.item(item, base, behind, "" if tight else " ", place.flat)

    def _broken(self) -> bool:
        return self.gaps[self.index].breaks or self.gaps[self.index + 1].breaks

    def _joint(self, space: str) -> None:
        """`-`, also where the author wrote `->`."""
        self.take([Piece("-", space)])

    def item(self, item: ast.Item, base: int, suffix: int, space: str, flat: bool) -> None:
        width = self.column + len(space) + self.measure.item(item) + suffix
        opens = not flat and self.measure.can_open(item.body, width)
        self.primary(item.body, base, opens, space)
        for post in item.posts:
            if isinstance(post, ast.Note):
                self.take_to(post.shape.span.start, " ", "note")
                self.take_to(post.span.end, " ", "end")
            elif isinstance(post, ast.Tag):
                self.take_to(post.span.end, " ")
            elif isinstance(post, ast.Condition) and post.otherwise is not None:
                self.take_to(post.otherwise.span.start)
                width = self.column + 1 + self.measure.primary(post.otherwise)
                opens = not flat and self.measure.can_open(post.otherwise, width)
                self.primary(post.otherwise, base, opens, " ")
            else:
                self.take_to(post.span.end)

    def primary(self, node: ast.Primary, base: int, opens: bool, space: str) -> None:
        if isinstance(node, ast.Group):
            self.take_to(self.words[self.index].span.end, space)
            self._inside(node.chain, base, opens)
            self._close(base, opens)
        elif isinstance(node, ast.Call):
            self._call(node, base, opens, space)
        else:
            self.take_to(node.span.end, space)

    def _call(self, call: ast.Call, base: int, opens: bool, space: str) -> None:
        self.take_to(call.name_span.end, space)
        if not call.arguments and self.words[self.index].type == "LPAR":
            self.skip()
            self.skip()
        if not call.branches:
            self.take_to(call.span.end)
            return
        brace = self.measure.brace(call)
        self.take_to(brace.span.end)
        for branch in call.branches:
            if branch is call.branches[0]:
                self._inside(branch, base, opens, branches=True)
                continue
            self._before_sign()
            if opens:
                self.start(base + STEP - 2)
                self.lines[-1].hang = base + 2 * STEP
            self.take([Piece("|", "" if opens else " ")])
            self._inside(branch, base, opens, branches=True, space=" ", begun=True)
        self._close(base, opens, "" if opens else " ")

    def _inside(
        self,
        chain: ast.Chain,
        base: int,
        opens: bool,
        branches: bool = False,
        space: str = "",
        begun: bool = False,
    ) -> None:
        """A chain between brackets, on lines of its own if they are open."""
        self.chains += 1
        outside, self.inside = self.inside, self.chains
        if opens:
            text = base + STEP
            if not begun:
                self.start(text, first=True)
            self.lines[-1].chain = self.inside
            self.chain(chain, Place(text, text if branches else text - 2), 0, space)
        else:
            self.chain(chain, Place(base, base, flat=True), 0, " " if branches else "")
        self.inside = outside

    def _close(self, base: int, opens: bool, space: str = "") -> None:
        if opens:
            self.start(base, inner=base + STEP)
        self.take_to(self.words[self.index].span.end, space)


def _chain(statement: ast.Statement) -> ast.Chain | None:
    if isinstance(statement, ast.Net):
        return statement.chain
    return statement.body if isinstance(statement, ast.Definition) else None
