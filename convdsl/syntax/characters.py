"""Text -> the same text, or a diagnostic: refuses characters that readers cannot see.

Controls, zero-width and bidirectional characters make a program look like another one
(Boucher and Anderson, "Trojan Source", 2021), so they are refused everywhere, comments too.
Other letters beyond ASCII may stand in comments and strings.
"""

import re
import unicodedata

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Source, Span

# "\r" only before "\n"; the ranges are controls, soft hyphen, zero-width and bidirectional
# marks, line separators that `Source` does not count, surrogates and tag characters.
REFUSED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)


def check_characters(source: Source) -> None:
    """Raises CompileError (E109) at the first character that no program may hold."""
    match = REFUSED.search(source.text)
    if match is None:
        return
    more = sum(1 for _ in REFUSED.finditer(source.text, match.end()))
    # What is shown must not hold the characters either; places stay the same.
    shown = Source(source.name, REFUSED.sub("\ufffd", source.text))
    raise CompileError(
        [
            Diagnostic(
                "E109",
                f"the text holds {describe(match.group())}",
                (Label(Span(shown, *match.span()), "here"),),
                help="end lines with a line feed"
                if match.group() == "\r"
                else "delete it; if the file is no text, name the right file",
                notes=(f"{more} more characters of this kind follow",) if more else (),
            )
        ]
    )


def describe(char: str) -> str:
    """``U+202E (RIGHT-TO-LEFT OVERRIDE)``: a character by number and name, never itself."""
    controls = {"\0": "NUL", "\r": "CARRIAGE RETURN", "\x1b": "ESCAPE", "\x0c": "FORM FEED"}
    name = unicodedata.name(char, controls.get(char, unicodedata.category(char)))
    return f"U+{ord(char):04X} ({name})"


def printable(text: str) -> str:
    """``text`` with everything unprintable written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
