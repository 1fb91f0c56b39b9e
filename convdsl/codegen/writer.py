"""Indented lines of Python, calls wrapped at 100 columns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WIDTH = 100


class Writer:
    """Collects lines at the current indentation."""

    def __init__(self, depth: int = 0) -> None:
        self.lines: list[str] = []
        self._depth = depth

    def line(self, text: str = "") -> None:
        self.lines.append("    " * self._depth + text if text else "")

    def comment(self, text: str) -> None:
        """A comment, cut at the width: it points at the source, it need not repeat it."""
        room = WIDTH - 4 * self._depth
        text = f"# {text}"
        self.line(text if len(text) <= room else text[: room - 3] + "...")

    def call(self, opening: str, arguments: Sequence[str], closing: str = ")") -> None:
        """``opening(arguments)``: on one line if it fits, else filled lines inside."""
        joined = ", ".join(arguments)
        whole = f"{opening}{joined}{closing}"
        if not self._is_long(whole):
            self.line(whole)
            return
        self.line(opening)
        with self.indent():
            row = ""
            for argument in arguments:
                if self._is_long(f"{argument},") and argument.endswith(")"):
                    if row:
                        self.line(row)
                    head, _, inner = argument.partition("(")
                    self.call(f"{head}(", split_arguments(inner[:-1]), "),")
                    row = ""
                    continue
                longer = f"{row} {argument}," if row else f"{argument},"
                if row and self._is_long(longer):
                    self.line(row)
                    longer = f"{argument},"
                row = longer
            if row:
                self.line(row)
        self.line(closing)

    def statement(self, text: str) -> None:
        """``name = function(arguments)``, wrapped like `call` where it is too long."""
        opening, _, rest = text.partition("(")
        if not self._is_long(text) or not rest.endswith(")"):
            self.line(text)
        else:
            self.call(f"{opening}(", split_arguments(rest[:-1]))

    def assign(self, name: str, expression: str) -> None:
        """``name = expression``, in parentheses on a line of its own where it is too long."""
        if not self._is_long(f"{name} = {expression}"):
            self.line(f"{name} = {expression}")
            return
        self.line(f"{name} = (")
        with self.indent():
            self.line(expression)
        self.line(")")

    def delete(self, names: Sequence[str]) -> None:
        """``del a, b``; in parentheses where it is too long."""
        text = f"del {', '.join(names)}"
        if self._is_long(text):
            self.call("del (", names)
        else:
            self.line(text)

    def _is_long(self, text: str) -> bool:
        return len(text) + 4 * self._depth > WIDTH

    @contextmanager
    def indent(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def one_line(text: str) -> str:
    """User text made safe for a comment: white space folded, control characters escaped."""
    folded = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in folded)


def split_arguments(text: str) -> list[str]:
    """Arguments of a call, split at the commas outside brackets and strings."""
    parts, depth, start, quoted = [], 0, 0, False
    for place, char in enumerate(text):
        quoted ^= char == '"'
        if quoted:
            continue
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in (*parts, text[start:].strip()) if part]
