"""How wide a part of a program is on one line, and whether it can or must take several.

Widths are worked out once for each node, from the inside out, before any line is laid out.
"""

from bisect import bisect_left, bisect_right

from convdsl.syntax import ast
from convdsl.syntax.format_gaps import Gap
from convdsl.syntax.format_lines import WIDTH
from convdsl.syntax.format_spacing import spaced
from convdsl.syntax.word import Word

Node = ast.Chain | ast.Item | ast.Primary


class Measure:
    """Looks at words and gaps as they were written."""

    def __init__(self, words: list[Word], between: list[Gap]) -> None:
        self._words = words
        self._starts = [word.span.start for word in words]
        self._breaks = [gap.breaks for gap in between]
        self._empty = [gap.empty for gap in between]
        self._commented = [number for number, gap in enumerate(between) if gap.comments]
        self._widths: dict[int, int] = {}
        self._open: dict[int, bool] = {}

    # ---- places

    def _at(self, offset: int) -> int:
        """The number of the first word at or behind an offset."""
        return bisect_left(self._starts, offset)

    def _between(self, start: int, end: int) -> list[Word]:
        return self._words[self._at(start) : self._at(end)]

    def brace(self, call: ast.Call) -> Word:
        """The brace before a call's first branch."""
        return self._words[self._at(call.branches[0].span.start) - 1]

    def _joints(self, chain: ast.Chain) -> list[int]:
        """The numbers of the signs that join the items."""
        return [self._at(item.span.start) - 1 for item in chain.items[1:]]

    def _comments(self, first: int, last: int | None = None) -> bool:
        """Whether a comment stands before the words from one number to another, inclusive."""
        last = first if last is None else last
        return bisect_right(self._commented, last) > bisect_left(self._commented, first)

    # ---- widths

    def words(self, start: int, end: int) -> int:
        return sum(len(p.space) + len(p.text) for p in spaced(self._between(start, end)))

    def head(self, head: ast.Head | None) -> int:
        """The comma, the space and the head."""
        return 0 if head is None else 2 + self.words(head.span.start, head.span.end)

    def tight(self, chain: ast.Chain) -> bool:
        """Whether the author joined all items without spaces: ``CONV-RELU``."""
        joints = self._joints(chain)
        return bool(joints) and all(self._empty[j] and self._empty[j + 1] for j in joints)

    def chain(self, chain: ast.Chain) -> int:
        joints = len(chain.items) - 1
        return sum(map(self.item, chain.items)) + joints * (1 if self.tight(chain) else 3)

    def item(self, item: ast.Item) -> int:
        """On one line, with two spaces before the note that ends it."""
        if id(item) not in self._widths:
            ends_in_note = bool(item.posts) and isinstance(item.posts[-1], ast.Note)
            width = self.primary(item.body) + self._posts(item) + ends_in_note
            self._widths[id(item)] = width
        return self._widths[id(item)]

    def _posts(self, item: ast.Item) -> int:
        width = 0
        for post in item.posts:
            otherwise = post.otherwise if isinstance(post, ast.Condition) else None
            end = otherwise.span.start if otherwise else post.span.end
            width += self.words(post.span.start, end)
            if isinstance(post, ast.Note | ast.Tag):
                width += 1
            elif otherwise is not None:
                width += 2 + self.primary(otherwise)
        return width

    def primary(self, node: ast.Primary) -> int:
        if isinstance(node, ast.Group):
            return 2 + self.chain(node.chain)
        if isinstance(node, ast.Call) and node.branches:
            branches = sum(map(self.chain, node.branches)) + 3 * (len(node.branches) - 1)
            return self._front(node) + branches + 3
        if isinstance(node, ast.Call):
            return self._front(node)
        return self.words(node.span.start, node.span.end)

    def _front(self, call: ast.Call) -> int:
        """The name, the arguments and the brace."""
        if not call.arguments:
            return len(call.name) + bool(call.branches)
        end = self.brace(call).span.end if call.branches else call.span.end
        return self.words(call.span.start, end)

    def opening(self, item: ast.Item) -> int:
        """All of the item, or what stands on its first line if it takes several."""
        return self.first_line(item) if self.is_open(item) else self.item(item)

    def first_line(self, item: ast.Item) -> int:
        """What of the item must fit where it begins, however many lines it takes."""
        body = item.body
        if isinstance(body, ast.Group):
            return 1
        return self._front(body) if isinstance(body, ast.Call) else self.primary(body)

    # ---- several lines

    def is_open(self, node: Node) -> bool:
        """Whether a bracket in it is written over several lines, or holds a comment."""
        if id(node) not in self._open:
            self._open[id(node)] = self._opens(node)
        return self._open[id(node)]

    def _opens(self, node: Node) -> bool:
        if isinstance(node, ast.Chain):
            joints = self._joints(node)
            broken = any(self._breaks[j] or self._breaks[j + 1] for j in joints)
            return broken or any(map(self.is_open, node.items))
        if isinstance(node, ast.Item):
            others = (p.otherwise for p in node.posts if isinstance(p, ast.Condition))
            return self.is_open(node.body) or any(self.is_open(o) for o in others if o is not None)
        if isinstance(node, ast.Group):
            return self._bracket(node.span.start, node.span.end, (node.chain,))
        if isinstance(node, ast.Call) and node.branches:
            return self._bracket(self.brace(node).span.start, node.span.end, node.branches)
        return False

    def _bracket(self, start: int, end: int, chains: tuple[ast.Chain, ...]) -> bool:
        first, last = self._at(start), bisect_right(self._starts, end - 1) - 1
        if self._comments(first + 1, last):
            return True
        edges = [first + 1, last]
        for chain in chains[1:]:
            bar = self._at(chain.span.start) - 1
            edges += (bar, bar + 1)
        return any(self._breaks[edge] for edge in edges) or any(map(self.is_open, chains))

    def can_open(self, node: ast.Primary, width: int) -> bool:
        """Whether it has a bracket that is open, or that may be because of the width."""
        has_bracket = isinstance(node, ast.Group) or (isinstance(node, ast.Call) and node.branches)
        return bool(has_bracket) and (self.is_open(node) or width > WIDTH)

    def on_one_line(self, chain: ast.Chain, index: int, column: int, suffix: int) -> bool:
        """Whether a statement's chain goes on behind its beginning, which ends at ``column``.

        Brackets in it may be open, unless the author began a line before them; the first line of
        each and what follows the last must fit.
        """
        joints = self._joints(chain)
        if self._breaks[index] and any(map(self.is_open, chain.items)):
            return False
        if self._comments(index) or any(self._breaks[j] or self._breaks[j + 1] for j in joints):
            return False
        for number, item in enumerate(chain.items):
            column += 3 * (number > 0)
            width = self.item(item) + (suffix if item is chain.items[-1] else 0)
            too_long = column + width > WIDTH and len(chain.items) == 1
            if self.is_open(item.body) or (too_long and self.can_open(item.body, column + width)):
                if column + self.first_line(item) > WIDTH:
                    return False
                column = 1 + self._posts(item)
            elif self.is_open(item):
                return False
            else:
                column += self.item(item)
            if column > WIDTH:
                return False
        return column + suffix <= WIDTH
