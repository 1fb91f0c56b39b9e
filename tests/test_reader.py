"""Files and bytes -> text: whatever they hold, a Source or a diagnostic."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.syntax.parser import parse
from convdsl.syntax.reader import MAX_BYTES, read_source, source_from_bytes


def read(path: object) -> Diagnostic:
    with pytest.raises(CompileError) as caught:
        read_source(path)  # type: ignore[arg-type]
    (only,) = caught.value.diagnostics
    assert only.message.isprintable()
    return only


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "net.cnn"
    good.write_bytes(b"\xef\xbb\xbfnet a = b\r\n")
    assert read_source(good).text == "net a = b\r\n"
    assert read_source(good).name == str(good)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b" " * (MAX_BYTES + 1))
    assert read(tmp_path / "missing\n\x1b[31m").code == "E300"
    for name in ("fifo", "loop", ".", "x" * 300, "net.cnn/x", "a\0b"):
        assert read(f"{tmp_path}/{name}").code == "E300"
    assert read("/dev/zero").code == "E300"
    assert read(tmp_path / "large").code == "E304"


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"net a = \xff", 8),
        (b"\xef\xbb\xbf# \xc3\xbc\nn\xe9t", 5),
        (b"\xc3", 0),
        ("net a = b".encode("utf-16"), 0),
    ],
)
def test_bytes_that_are_no_text(data: bytes, offset: int) -> None:
    with pytest.raises(CompileError) as caught:
        source_from_bytes("t.cnn", data)
    (only,) = caught.value.diagnostics
    assert (only.code, only.labels[0].span.start) == ("E109", offset)


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "replace")))
def test_random_bytes(data: bytes) -> None:
    try:
        assert parse(source_from_bytes("t.cnn", data)).statements
    except CompileError as error:
        assert error.diagnostics and str(error)
