"""Text to a file, whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

import click

from convdsl.files import replace


def write_atomically(path: Path, text: str, sources: Sequence[Path] = ()) -> None:
    """Write ``text`` as UTF-8 to a temporary file beside ``path`` and rename it into place.

    A link is followed, so it stays a link; a device or a pipe is written to as it is. Raises
    click.UsageError if ``path`` is one of ``sources``, the files compiled, and
    click.ClickException if writing fails.
    """
    try:
        if path.exists() and any(path.samefile(source) for source in sources):
            raise click.UsageError(f"-o {path} would overwrite the program itself.")
        data = text.encode("utf-8", "backslashreplace")
        target = path.resolve()
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
        else:
            replace(target, data)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from error
