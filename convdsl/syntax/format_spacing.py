"""The space before a word of an expression, an argument list or a statement's beginning.

`*`, `/` and `**` bind tightly and are written so; other operators stand between spaces; `=` does
in `let N = 2` but not in `F=3`.
"""

from collections.abc import Sequence

from convdsl.syntax.format_lines import Piece
from convdsl.syntax.word import Word

_OPENING = frozenset({"LPAR", "LBRACE", "LSQB"})
_SPACED = frozenset(
    {"PLUS", "MINUS", "FLOOR", "COMPARISON", "OR", "AND", "NOT", "IN", "DOTS", "ELSE", "AS", "NOTE"}
)
_TIGHT = frozenset({"STAR", "SLASH", "POWER", "DOT", "AT", "QUESTION"})
# behind these a minus is a sign
_BEFORE_VALUE = _SPACED | _OPENING | frozenset({"STAR", "SLASH", "POWER", "COMMA", "EQUALS"})
_BREAKS = frozenset({"OR", "AND", "PLUS", "MINUS"})


def spaced(words: Sequence[Word], level: int = 1, mark: str = "") -> list[Piece]:
    """The words as pieces, the first without a space.

    level: of the line breaks behind commas; those of inner brackets and before operators are
    higher.
    """
    pieces: list[Piece] = []
    depth = 0
    sign = False  # the word before is a sign or `not`'s kind of minus
    for number, word in enumerate(words):
        last = words[number - 1] if number else None
        is_sign = word.type == "MINUS" and (last is None or last.type in _BEFORE_VALUE)
        space = " " if last is not None and _apart(last, word, depth, sign, is_sign) else ""
        breaks = 0
        if last is not None and last.type == "COMMA":
            breaks = level + depth
        elif word.type in _BREAKS and space and not is_sign:
            breaks = level + depth + 100
        pieces.append(Piece(word.text, space, breaks, mark))
        sign = is_sign
        if word.type in _OPENING:
            depth += 1
        elif word.type in ("RPAR", "RSQB", "RBRACE"):
            depth -= 1
    return pieces


def _apart(last: Word, word: Word, depth: int, sign: bool, is_sign: bool) -> bool:
    """Whether a space stands between two words inside the brackets of ``depth``."""
    if last.type in _OPENING or word.type in ("RPAR", "COMMA", "COLON") or sign:
        return False
    if last.type in ("COMMA", "COLON"):
        return True
    if "EQUALS" in (last.type, word.type):
        return depth == 0
    if last.type in _SPACED or (word.type in _SPACED and not is_sign):
        return True
    if last.type in _TIGHT or word.type in _TIGHT:
        # a tag or the current tensor, `not @.C`, stands apart from a word before it
        return word.type == "AT" and last.type not in ("STAR", "SLASH", "POWER", "INT", "AT")
    if is_sign:
        return last.type not in ("STAR", "SLASH", "POWER")
    return word.type != "LPAR" or last.type in ("STRING", "NOT")
