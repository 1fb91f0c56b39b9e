"""Text to a file, whole or not at all."""

from pathlib import Path

import click

from convdsl.files import replace


def write_atomically(path: Path, text: str, source: Path | None = None) -> None:
    """Write ``text`` as UTF-8 to a temporary file beside ``path`` and rename it into place.

    A link is followed, so it stays a link; a device or a pipe is written to as it is. Raises
    click.UsageError if ``path`` is the file compiled, click.ClickException if writing fails.
    """
    try:
        if source is not None and path.exists() and path.samefile(source):
            raise click.UsageError(f"-o {path} would overwrite the program itself.")
        data = text.encode("utf-8", "backslashreplace")
        target = path.resolve()
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)
        else:
            replace(target, data)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from error
