"""Golden texts of every stage for two shipped networks: read them to review the compiler."""

from collections.abc import Callable
from pathlib import Path

import pytest

import convdsl
from convdsl.compiler import STAGES
from convdsl.source import Source

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
SUFFIX = {"triton": "py", "torch": "py"}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["lenet5", "inception3a"])
def test_stage(name: str, stage: str, golden: Callable[[Path, str], None]) -> None:
    text = (ROOT / "networks" / f"{name}.cnn").read_text("utf-8")
    net = convdsl.compile_text(text, name=f"{name}.cnn")
    file = GOLDEN / name / f"{stage}.{SUFFIX.get(stage, 'txt')}"
    golden(file, net.emit(stage))


def test_the_same_source_gives_the_same_bytes() -> None:
    path = ROOT / "networks" / "alexnet.cnn"
    first, second = convdsl.compile(path), convdsl.compile(path)
    for stage in STAGES:
        assert first.emit(stage) == second.emit(stage)


def test_a_file_name_cannot_break_out_of_a_comment() -> None:
    from convdsl.compiler import compile_source

    source = Source('a"""\nimport os #.cnn', "input 4\nnet N = FC(2) - RELU - FC(2), SOFTMAX")
    net = compile_source(source)
    for stage in ("triton", "torch"):
        text = net.emit(stage)
        compile(text, "generated", "exec")
        assert "\nimport os" not in text
