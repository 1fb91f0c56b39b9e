"""Every finding as the user sees it: `tests/errors/*.cnn` against the `.err` beside it.

The first line of a case may say how it is compiled: ``# options: --strict -D N=2``. Cases that
no text file can show (no file, bytes) are made here, their goldens stand with the others.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from convdsl.cli.program import compile_program, findings, program_options
from convdsl.errors import CATALOGUE
from convdsl.report.render import render_all

CASES = Path(__file__).parent / "errors"
FILES = sorted(CASES.glob("*.cnn"))
Golden = Callable[[Path, str], None]


@click.command()
@program_options
def options(**values: object) -> dict[str, object]:
    return values


def report(path: str, arguments: list[str]) -> str:
    """The findings of compiling ``path``, named as seen from its folder, as plain text."""
    given = options.main(arguments, standalone_mode=False)
    _, found = findings(lambda: compile_program(path, None, **given))  # type: ignore[arg-type]
    return render_all(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_case(path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CASES)
    first = path.read_text(encoding="utf-8-sig").partition("\n")[0]
    arguments = shlex.split(first.partition("# options:")[2])
    golden(path.with_suffix(".err"), report(path.name, arguments))


MADE: dict[str, bytes | None] = {
    "E109_latin1": b"input 8x8x3\nnet caf\xe9 = RELU\n",
    "E109_utf16": "input 8x8x3\nnet a = RELU\n".encode("utf-16"),
    "E109_binary": bytes(range(256)),
    "E110_empty": b"",
    "E300_missing": None,
    "E304_large": b"#" * (1 << 21),
}


@pytest.mark.parametrize("name", MADE)
def test_made_case(
    name: str, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = MADE[name]
    if content is not None:
        Path(f"{name}.cnn").write_bytes(content)
    golden(CASES / f"{name}.err", report(f"{name}.cnn", []))


def test_directory_is_not_readable(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    golden(CASES / "E300_directory.err", report("folder", []))


def codes_in(text: str) -> set[str]:
    return set(re.findall(r"^(?:error|warning)\[(\w+)\]", text, flags=re.MULTILINE))


# E4 is of training: tests/test_train_problems.py
@pytest.mark.parametrize("code", [code for code in CATALOGUE if not code.startswith("E4")])
def test_every_code_has_a_case_named_after_it(code: str) -> None:
    shown = [codes_in(p.read_text(encoding="utf-8")) for p in CASES.glob(f"{code}*.err")]
    assert any(code in codes for codes in shown), f"tests/errors/{code}*.cnn is missing"


@pytest.mark.parametrize("path", sorted(CASES.glob("*.err")), ids=lambda path: path.stem)
def test_golden_is_of_a_case_and_of_known_codes(path: Path) -> None:
    made = path.stem in MADE or path.stem == "E300_directory"
    assert made or path.with_suffix(".cnn").exists(), f"{path.name} is left over"
    assert codes_in(path.read_text(encoding="utf-8")) <= set(CATALOGUE)
