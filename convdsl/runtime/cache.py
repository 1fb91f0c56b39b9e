"""The folder generated modules are kept in and run from."""

import os
import tempfile
from functools import cache
from pathlib import Path

from convdsl.files import private_cache, replace


@cache
def cache_dir() -> Path:
    """`convdsl.files.private_cache`, or a temporary folder for this process where that fails."""
    folder = private_cache()
    if folder is not None and os.access(folder, os.W_OK | os.X_OK):
        return folder
    return Path(tempfile.mkdtemp(prefix="convdsl-"))


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    replace(path, text.encode("utf-8"))
