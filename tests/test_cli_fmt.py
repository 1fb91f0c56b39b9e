"""`convdsl fmt` as its user meets it: files, streams, exit codes."""

import os
import stat
from pathlib import Path

import pytest

from tests import test_cli
from tests.test_cli import process

UGLY = "input 8x8x3   # picture\nnet a=CONV( 8 )-RELU , SOFTMAX"
NEAT = "input 8x8x3  # picture\nnet a = CONV(8)-RELU, SOFTMAX\n"
run = test_cli.run  # a fixture
LISTINGS = Path(__file__).parent.parent / "networks" / "listings"


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    path = tmp_path / "a.cnn"
    path.write_text(UGLY)
    return path


def test_files_are_rewritten(run, ugly, tmp_path) -> None:
    neat = tmp_path / "neat.cnn"
    neat.write_text(NEAT)
    before = neat.stat().st_mtime_ns, neat.stat().st_ino
    assert run("fmt", str(ugly), str(neat)) == (0, f"formatted {ugly}\n", "")
    assert ugly.read_text() == NEAT
    assert (neat.stat().st_mtime_ns, neat.stat().st_ino) == before  # not touched
    assert run("fmt", str(ugly), str(neat)) == (0, "2 files checked, nothing to change\n", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cnn", "neat.cnn"]


def test_check_and_diff_write_nothing(run, ugly) -> None:
    assert run("fmt", "--check", str(ugly)) == (1, f"would change {ugly}\n", "")
    code, out, err = run("fmt", "--diff", str(ugly))
    assert (code, err) == (0, "")
    assert "-net a=CONV( 8 )-RELU , SOFTMAX\n\\ No newline at end of file\n" in out
    assert "+net a = CONV(8)-RELU, SOFTMAX\n" in out
    assert run("fmt", "--diff", "--check", str(ugly))[:2] == (1, out)
    assert ugly.read_text() == UGLY
    run("fmt", str(ugly))
    for options in (("--check",), ("--diff",), ("--check", "--diff")):
        assert run("fmt", *options, str(ugly)) == (0, "", "")


def test_a_file_with_errors_is_left_alone_and_the_others_are_not(run, ugly, tmp_path) -> None:
    bad = tmp_path / "bad.cnn"
    bad.write_text("net a=CONV(8\n")
    code, out, err = run("fmt", str(bad), str(ugly))
    assert (code, out) == (1, f"formatted {ugly}\n")
    assert "error[E102]" in err and "bad.cnn:1:11" in err
    assert bad.read_text() == "net a=CONV(8\n" and ugly.read_text() == NEAT
    assert run("fmt", "--check", str(bad))[0] == 1
    assert run("fmt", str(tmp_path / "missing.cnn"))[0] == 2


def test_a_program_that_does_not_compile_is_formatted(run, tmp_path) -> None:
    path = tmp_path / "a.cnn"
    path.write_text("net a=CONVV( N )\n")
    assert run("fmt", str(path))[0] == 0
    assert path.read_text() == "net a = CONVV(N)\n"


def test_mode_links_and_line_ends_stay(run, ugly, tmp_path) -> None:
    ugly.write_bytes(UGLY.replace("\n", "\r\n").encode())
    ugly.chmod(0o640)
    link = tmp_path / "link.cnn"
    link.symlink_to(ugly)
    assert run("fmt", str(link))[0] == 0
    assert ugly.read_bytes() == NEAT.replace("\n", "\r\n").encode()
    assert stat.S_IMODE(ugly.stat().st_mode) == 0o640 and link.is_symlink()
    ugly.write_bytes(NEAT.replace("\n", "\r\n", 1).encode())  # the second line ends otherwise
    assert run("fmt", "--diff", "--check", str(ugly))[:2] == (1, f"{ugly}: line ends differ\n")
    assert run("fmt", "--check", str(ugly))[0] == 1
    run("fmt", str(ugly))
    assert ugly.read_bytes() == NEAT.replace("\n", "\r\n").encode()


def test_a_file_that_cannot_be_written(
    run,
    ugly,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "b.cnn"
    other.write_text(UGLY)
    allowed = os.access

    def access(path: object, mode: int) -> bool:
        return not (str(path) == str(ugly) and mode == os.W_OK) and allowed(str(path), mode)

    monkeypatch.setattr(os, "access", access)
    code, out, err = run("fmt", str(ugly), str(other))
    assert (code, out, err) == (
        2,
        f"formatted {other}\n",
        f"Error: cannot write {ugly}: permission denied\n",
    )
    assert ugly.read_text() == UGLY and other.read_text() == NEAT


def test_a_failed_write_leaves_the_file(run, ugly, tmp_path, monkeypatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    code, _, err = run("fmt", str(ugly))
    assert code == 2 and f"cannot write {ugly}: No space left on device" in err
    assert ugly.read_text() == UGLY
    assert list(tmp_path.iterdir()) == [ugly]


def test_standard_input_goes_to_standard_output() -> None:
    assert process("fmt", "-", data=UGLY.encode()) == (0, NEAT, "")
    code, out, _ = process("fmt", "--check", "-", data=UGLY.encode())
    assert (code, out) == (1, "would change <stdin>\n")
    code, out, err = process("fmt", "-", data=b"net a = (\n")
    assert (code, out) == (1, "") and "--> <stdin>:1" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("fmt",),
        ("fmt", "-", "a.cnn"),
        ("fmt", "--to", "onnx", "a.txt"),
        ("fmt", "--to", "cnn", "a.txt", "b.txt"),
        ("fmt", "--to", "cnn", "--check", "a.txt"),
        ("fmt", "--to", "cnn", "--diff", "a.txt"),
        ("fmt", "-o", "b.cnn", "a.cnn"),
        ("fmt", "."),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err and "Traceback" not in err


# ---- listings


@pytest.mark.parametrize("name", ["alexnet", "alphago"])
def test_a_listing_becomes_a_program(run, tmp_path, name: str) -> None:
    listing, program = LISTINGS / f"{name}.txt", tmp_path / f"{name}.cnn"
    code, out, err = run("fmt", "--to", "cnn", str(listing))
    assert (code, err) == (0, "")
    assert run("fmt", "--to", "cnn", str(listing), "-o", str(program)) == (0, "", "")
    assert program.read_text() == out
    assert process("fmt", "--to", "cnn", "-", data=listing.read_bytes()) == (0, out, "")
    assert run("fmt", "--check", str(program)) == (0, "", "")
    assert run("check", str(program), str(listing))[0] == 0
    assert run("fmt", "--to", "cnn", str(program)) == (0, out, "")  # a program stays one


def test_a_listing_is_not_rewritten(run, ugly, tmp_path) -> None:
    listing = tmp_path / "alphago.txt"
    text = (LISTINGS / "alphago.txt").read_text()
    listing.write_text(text)
    code, out, err = run("fmt", str(ugly), str(listing))
    assert (code, out) == (2, "") and f"convdsl fmt --to cnn {listing}" in err
    assert run("fmt", "--to", "cnn", str(listing), "-o", str(listing))[0] == 2
    assert listing.read_text() == text and ugly.read_text() == UGLY


def test_a_wrong_volume_is_shown_where_it_is_printed(run, tmp_path) -> None:
    listing = tmp_path / "alexnet.txt"
    listing.write_text((LISTINGS / "alexnet.txt").read_text().replace("6x6x256", "7x7x256"))
    for command in (("check",), ("compile",)):
        code, out, err = run(*command, str(listing))
        assert code == 1 and "error[E211]: this is 6x6x256, not 7x7x256" in out + err
        assert "alexnet.txt:13:1\n" in out + err


def test_listings_come_by_standard_input_too() -> None:
    code, out, _ = process("compile", "-", data=(LISTINGS / "alexnet.txt").read_bytes())
    assert code == 0 and "62,378,344" in out
