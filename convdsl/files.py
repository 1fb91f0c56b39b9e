"""Files written whole or not at all, and the private folder that caches live in."""

import os
import secrets
import stat
from pathlib import Path


def private_cache() -> Path | None:
    """``$CONVDSL_CACHE``, else ``$XDG_CACHE_HOME/convdsl`` or ``~/.cache/convdsl``.

    What lies there is executed, so None if it cannot be made or if others can write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(os.environ.get("CONVDSL_CACHE") or Path(base, "convdsl")).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ours = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return folder if ours and not shared else None


def replace(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: readers see the old file or the new one.

    An existing file's mode is kept. Raises OSError; then nothing has changed.
    """
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
