"""What all tests share: the interpreter, golden files, how examples are drawn.

Triton decides at import whether kernels are interpreted, so nothing here may import it earlier.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# the suite says the same every time, on a slow machine too
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
        # the tensors are tiny, and the tests run side by side
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        from tests.quick_interpreter import make_quick

        make_quick()


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
