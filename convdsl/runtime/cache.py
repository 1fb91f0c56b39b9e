"""The folder generated modules are kept in: per user, private, replaced when unusable."""

import os
import stat
import tempfile
from functools import cache
from pathlib import Path


@cache
def cache_dir() -> Path:
    """``$CONVDSL_CACHE``, else ``$XDG_CACHE_HOME/convdsl`` or ``~/.cache/convdsl``.

    Code is run from it, so it must belong to the user and be writable by nobody else; where that
    cannot be had, a private temporary folder serves this process.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = Path(os.environ.get("CONVDSL_CACHE") or Path(base, "convdsl")).expanduser()
    try:
        chosen.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_private(chosen) and os.access(chosen, os.W_OK | os.X_OK):
            return chosen
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="convdsl-"))


def _is_private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == os.getuid() and not shared


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step: readers see the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
