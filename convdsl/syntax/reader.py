"""File or bytes -> `Source`: UTF-8 only, regular files only, at most 1 MiB.

Nothing is parsed here. Whether a path may be read at all (imports) is decided by the caller.
"""

import os
import stat
from pathlib import Path

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Source, Span
from convdsl.syntax.characters import printable

MAX_BYTES = 1 << 20


def read_source(path: str | os.PathLike[str]) -> Source:
    """The text of a file. Raises CompileError: E300 not readable, E304 too large, E109 no UTF-8.

    A FIFO or a device is refused without being waited for.
    """
    name = printable(os.fspath(path))
    try:
        _check_regular(name, Path(path).stat())
        # The file may be replaced in between: O_NONBLOCK keeps a FIFO from hanging the open.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(name, os.fstat(descriptor))
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(name, (error.strerror or "it cannot be read").lower()) from error
    except ValueError as error:
        if isinstance(error, CompileError):
            raise
        raise _unreadable(name, "this is no path") from error  # NUL in the path
    return source_from_bytes(name, data)


def source_from_bytes(name: str, data: bytes) -> Source:
    """Decode UTF-8, with or without a byte order mark. Raises CompileError (E109, E304)."""
    name = printable(name)
    if len(data) > MAX_BYTES:
        raise too_large(name)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        source = Source(name, "")
        raise CompileError(
            [
                Diagnostic(
                    "E109",
                    "the file is UTF-16, not UTF-8",
                    (Label(Span(source, 0, 0), "its byte order mark says so"),),
                    help="save it as UTF-8",
                )
            ]
        )
    try:
        return Source(name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # The error counts bytes, and those of the text without its byte order mark.
        body = data.removeprefix(b"\xef\xbb\xbf")
        offset = len(body[: error.start].decode("utf-8"))
        text = body.decode("utf-8", errors="replace")
        source = Source(
            name, "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
        )
        raise CompileError(
            [
                Diagnostic(
                    "E109",
                    f"byte 0x{body[error.start]:02x} is not UTF-8",
                    (Label(Span(source, offset, offset + 1), "here"),),
                    help="save the file as UTF-8",
                )
            ]
        ) from error


def too_large(name: str) -> CompileError:
    return CompileError(
        [
            Diagnostic(
                "E304",
                f"{name} is larger than 1 MiB",
                help="use repeats and blocks instead of writing every layer",
            )
        ]
    )


def _check_regular(name: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _unreadable(name, "it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable(name, "it is no regular file")
    if status.st_size > MAX_BYTES:
        raise too_large(name)


def _unreadable(name: str, why: str) -> CompileError:
    return CompileError(
        [Diagnostic("E300", f"cannot read {name}: {why}", help="name a readable text file")]
    )
