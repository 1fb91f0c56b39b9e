"""grammars/cnn.lark -> the one Lark parser of this process, with tree building attached.

Building the tables takes longer than compiling a network, so Lark's cache keeps them, in a
directory that only this user can write: the cache is a pickle, and reading one runs what it says.
"""

import os
import stat
from functools import cache
from pathlib import Path

from lark import Lark

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
    directory = _private_directory()
    return Lark(
        grammar_path().read_text(encoding="utf-8"),
        parser="lalr",
        lexer="basic",
        start=list(STARTS),
        transformer=Build(),
        maybe_placeholders=True,
        cache=str(directory / "cnn.lark.cache") if directory else False,
    )


def _private_directory() -> Path | None:
    """``$CONVDSL_CACHE``, else ``$XDG_CACHE_HOME/convdsl`` or ``~/.cache/convdsl``.

    None if it cannot be made, or if others can write to it: then the tables are built anew.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        directory = Path(os.environ.get("CONVDSL_CACHE") or Path(base, "convdsl")).expanduser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except (OSError, RuntimeError):
        return None
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return directory if ours and not shared else None
