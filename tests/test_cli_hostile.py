"""Input nobody should write: refused with a finding, in time, in little memory."""

import os
import resource
from pathlib import Path

import pytest

from tests.test_cli import LENET, process


def limit() -> None:
    """At most 200 MB, counted as address space, which is more than what is really used."""
    resource.setrlimit(resource.RLIMIT_AS, (200_000_000, 200_000_000))


def busy() -> float:
    """Processor seconds of all finished children: unlike the clock, blind to a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def deep(opening: str, closing: str, depth: int) -> bytes:
    return f"input 8x8x3\nnet a = {opening * depth}RELU{closing * depth}\n".encode()


HOSTILE = {
    "empty": b"",
    "blank": b"\n\n   \n",
    "comment only": b"# nothing\n",
    "binary": bytes(range(256)) * 40,
    "nul": b"input 8x8x3\nnet a = RELU\0\n",
    "lone surrogate": b"input 8x8x3\nnet a = \xed\xa0\x80\n",
    "utf-16": "input 8x8x3\nnet a = RELU\n".encode("utf-16"),
    "round brackets": deep("(", ")", 500),
    "square brackets": deep("[", "]", 500),
    "unclosed": deep("(", "", 500),
    "100,000 brackets": deep("(", ")", 100_000),
    "branches": deep("ADD{ID|", "}", 500),
    "5,000 digits": b"input 8x8x3\nnet a = CONV(" + b"9" * 5000 + b")\n",
    "5,000 digits in a shape": b"input " + b"9" * 5000 + b"x8x3\nnet a = RELU\n",
    "endless repeat": b"input 8x8x3\nnet a = RELU*1000000000\n",
    "nested repeats": b"input 8x8x3\nnet a = " + b"(" * 12 + b"RELU" + b")*99" * 12 + b"\n",
    "1e400": b"input 8x8x3\nnet a = DROPOUT(1e400)\n",
    "power": b"input 8x8x3\nlet N = 9**9**9**9\nnet a = CONV(N)\n",
    "power of powers": b"input 8x8x3\nlet N = 10**(10**10)\nnet a = CONV(N)\n",
    "long expression": b"input 8x8x3\nlet N = " + b"1+" * 50_000 + b"1\nnet a = CONV(N)\n",
    "deep expression": b"input 8x8x3\nlet N = " + b"(" * 5000 + b"1" + b")" * 5000 + b"\n",
    "negations": b"input 8x8x3\nlet N = " + b"-" * 50_000 + b"1\nnet a = CONV(N)\n",
    "wide map": b"input 999999999x999999999x999999\nnet a = CONV(9)\n",
    "zero map": b"input 0x0x0\nnet a = RELU\n",
    "recursion": b"input 8x8x3\nblock a() = b()\nblock b() = a()\nnet n = a()\n",
    "doubling blocks": b"input 8x8x3\nblock b0 = RELU\n"
    + b"".join(b"block b%d = b%d - b%d\n" % (i, i - 1, i - 1) for i in range(1, 60))
    + b"net a = b59\n",
    "long line": b"input 8x8x3\nnet a = " + b"RELU - " * 100_000 + b"OOPS\n",
    "long name": b"input 8x8x3\nnet a = " + b"A" * 500_000 + b"\n",
    "many errors": b"input 8x8x3\nnet a = " + b" - ".join([b"OOPS"] * 5000) + b"\n",
    "long range": b"input 8x8x3\nnet a = CONV(k)*(k in 1 .. 1000000000000)\n",
    "import of a device": b'import "/dev/zero" (a)\ninput 8x8x3\nnet n = a()\n',
    "import from outside": b'import "../../../etc/passwd" (a)\ninput 8x8x3\nnet n = a()\n',
    "long listing": b"[8x8x3] INPUT\n" + b"[8x8x3] CONV1: 3 3x3 filters, pad 1\n" * 20_000,
    "listing of one line": b"[8x8x3] INPUT " + b"with " * 200_000,
    "2 MiB": b"# padding\n" * 210_000,
}


def refusal(path: Path, text: bytes) -> float:
    """Processor seconds until the text is refused as it should be."""
    path.write_bytes(text)
    before = busy()
    code, _, err = process("compile", str(path), preexec_fn=limit)
    assert code == 1, err[:2000]
    assert "error[E" in err and len(err) < 100_000
    return busy() - before


@pytest.fixture(scope="module")
def shortest(tmp_path_factory: pytest.TempPathFactory) -> float:
    """What refusing a text of one word takes this machine: nearly all of it is starting up."""
    path = tmp_path_factory.mktemp("short") / "a.cnn"
    return min(refusal(path, b"net") for _ in range(3))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_time(name: str, shortest: float, tmp_path: Path) -> None:
    """Within ten times the shortest, where a cost that is not linear would take minutes."""
    assert refusal(tmp_path / "a.cnn", HOSTILE[name]) < 10 * shortest


@pytest.mark.parametrize(
    "text",
    [b"\xef\xbb\xbf" + LENET.encode(), LENET.replace("\n", "\r\n").encode()],
    ids=["bom", "crlf"],
)
def test_byte_order_mark_and_dos_line_ends_are_fine(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.cnn"
    path.write_bytes(text)
    code, out, err = process("compile", str(path))
    assert (code, err) == (0, "") and "61,706" in out


def test_a_fifo_and_a_directory_are_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.cnn"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        code, out, _ = process("check", str(path))
        assert code == 2 and "error[E300]" in out


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.cnn"
    path.write_text(LENET)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    assert process("check", str(path))[0] == 2


def test_odd_file_names() -> None:
    for name in ("a\nb.cnn", "\x1b[31m.cnn", "x" * 5000, "é漢.cnn"):
        code, out, _ = process("check", name)
        assert code == 2 and "\x1b" not in out and "E300" in out
