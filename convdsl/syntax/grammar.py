"""grammars/cnn.lark -> the one Lark parser of this process, with tree building attached.

Building the tables takes longer than compiling a network, so Lark's cache keeps them, in a
directory that only this user can write: the cache is a pickle, and reading one runs what it says.
"""

from functools import cache
from pathlib import Path

from lark import Lark

from convdsl.files import private_cache
from convdsl.syntax.build import Build

#: what can be parsed alone; the last is never parsed but keeps the lexer total
STARTS = ("program", "shape", "expr", "default", "no_program")


def grammar_path(name: str = "cnn.lark") -> Path:
    """The file in a wheel (``convdsl/grammars``) or in a checkout (``grammars`` beside it)."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "grammars" / name, package.parent / "grammars" / name)
    return next((place for place in places if place.is_file()), places[0])


@cache
def grammar() -> Lark:
    """The parser: LALR(1) for any of `STARTS`."""
    directory = private_cache()
    return Lark(
        grammar_path().read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start=list(STARTS),
        transformer=Build(),
        maybe_placeholders=True,
        cache=str(directory / "cnn.lark.cache") if directory else False,
    )
