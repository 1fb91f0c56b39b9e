"""What a stream can show: colour, characters, width.

Makes any text safe to print. Control and formatting characters of the input are escaped, so no
program text can move the cursor, and outside UTF-8 everything beyond ASCII is escaped too.
"""

import codecs
import os
import shutil
from dataclasses import dataclass
from typing import TextIO
from unicodedata import category, combining, east_asian_width

_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36}
_TAB = "    "


@dataclass(frozen=True, slots=True)
class Style:
    """How to write to one stream.

    width: in cells; where the stream is no terminal it trims only quoted source lines.
    """

    color: bool = False
    unicode: bool = True
    width: int = 100
    terminal: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> "Style":
        """Colour on a terminal only, never with NO_COLOR or TERM=dumb (no-color.org)."""
        terminal = stream.isatty()
        color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            name = codecs.lookup(stream.encoding or "ascii").name
        except LookupError:
            name = "ascii"
        width = max(40, shutil.get_terminal_size((100, 24)).columns) if terminal else 100
        return cls(bool(color), name.startswith("utf"), width, terminal)

    def paint(self, text: str, *looks: str) -> str:
        """``text`` in colour, or as it is where the stream shows none."""
        if not self.color or not text:
            return text
        codes = ";".join(str(_CODES[look]) for look in looks)
        return f"\x1b[{codes}m{text}\x1b[0m"

    def char(self, char: str) -> str:
        """One character as it may be printed."""
        if char == "\t":
            return _TAB
        if " " <= char <= "~":
            return char
        if not self.unicode or category(char)[0] == "C" or char in "\u2028\u2029":
            return char.encode("unicode_escape").decode("ascii")
        return char

    def clean(self, text: str) -> str:
        """``text`` without anything a stream could choke on or obey."""
        if text.isascii() and text.isprintable():
            return text
        return "".join(self.char(char) for char in text)


def cells(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def shorten(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells, ending in ``...`` when it had to be cut."""
    if cells(text) <= width:
        return text
    while text and cells(text) > width - 3:
        text = text[:-1]
    return text + "..."


def counted(number: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
