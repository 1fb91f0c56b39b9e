"""What stands between two words: comments, line breaks, blanks. The parser has no use for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from convdsl.syntax.word import Word


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment from its ``#`` on. trailing: behind a word; after_blank: under an empty line."""

    text: str
    trailing: bool
    after_blank: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """What stands before a word. breaks: a line ends there; after_blank: an empty line comes last.

    empty: nothing at all, the two words touch.
    """

    comments: tuple[Comment, ...] = ()
    breaks: bool = False
    after_blank: bool = False
    empty: bool = True


def gaps(words: Sequence[Word]) -> list[Gap]:
    """The gap before each word, the last of which is the end of the text."""
    found = []
    end = 0
    for word in words:
        text = word.span.source.text[end : word.span.start]
        found.append(_gap(text, first=end == 0))
        end = word.span.end
    return found


def _gap(text: str, first: bool) -> Gap:
    comments = []
    blank = False
    lines = text.split("\n")
    for number, line in enumerate(lines):
        content = line.strip()
        if content:
            comments.append(Comment(content, number == 0 and not first, blank))
            blank = False
        elif 0 < number < len(lines) - 1:
            blank = True
    return Gap(tuple(comments), len(lines) > 1, blank, not text)
