"""What all tests share: the interpreter, golden files.

Triton decides at import whether kernels are interpreted, so nothing here may import it earlier.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
        # the tensors are tiny, and the tests run side by side
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        _interpret_without_overflow_checks()


def _interpret_without_overflow_checks() -> None:
    """They work out every integer twice, and half the time of the tests went there.

    No tensor here is large enough for 32 bits to overflow.
    """
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite golden files instead of comparing"
    )


@pytest.fixture
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimisers step as on a CPU, with no kernel interpreted. And nothing waits for the disk: the
    tests do not outlive a loss of power anyway."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """``golden(path, text)``: the text equals the file's; --update-golden writes it instead."""
    update = request.config.getoption("--update-golden")

    def compare(path: Path, text: str) -> None:
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} is missing; pytest --update-golden writes it"
        assert text == path.read_text(encoding="utf-8")

    return compare
