"""What README.md, CONTRIBUTING.md and docs/ show is what happens.

```console blocks: lines behind ``$`` are run in the repository's root, what follows is their
output. ```python blocks are run, ```cnn blocks compiled. ``pytest --update-golden`` rewrites
shown output.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import convdsl
from tests.published_models import torchvision_models

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(README.read_text("utf-8")) if kind == language]


def run(command: str) -> str:
    """Output of a shell line with this interpreter's ``convdsl`` first on the path."""
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"], "NO_COLOR": "1"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env=environment,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.stdout


def shown(block: str) -> str:
    """The block with its commands run again."""
    commands = [line for line in block.splitlines() if line.startswith("$ ")]
    text = ""
    for command in commands:
        output = run(command[2:])
        text += f"{command}\n{output}" + ("" if output.endswith("\n") or not output else "\n")
    return text


def test_console_blocks_show_what_the_commands_print(request: pytest.FixtureRequest) -> None:
    text = README.read_text("utf-8")
    again = FENCE.sub(
        lambda m: f"```console\n{shown(m[2])}```" if m[1] == "console" else m[0], text
    )
    if request.config.getoption("--update-golden"):
        README.write_text(again, encoding="utf-8")
        return
    assert again == text


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if "import torchvision" in block:
        torchvision_models()  # makes it importable with this build of torch
    exec(compile(block, "README.md", "exec"), {})


def test_the_first_network_is_the_shipped_one() -> None:
    (program, *_) = re.findall(r"^```\n(input.*?)^```$", README.read_text("utf-8"), re.S | re.M)
    ours = convdsl.compile_text(program)
    shipped = convdsl.compile(ROOT / "networks" / "lenet5.cnn")
    assert ours.to_dict()["totals"] == shipped.to_dict()["totals"]


def test_the_deep_network_is_the_shipped_one() -> None:
    (program,) = blocks("cnn")
    ours, shipped = convdsl.compile_text(program), convdsl.compile(ROOT / "networks/resnet50.cnn")
    shapes = [[p.value.type for p in net.graph.parameters] for net in (ours, shipped)]
    assert shapes[0] == shapes[1] and ours.macs == shipped.macs


def test_install_commands_name_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"'\.\[(\w+)\]'", README.read_text("utf-8")))
    assert named == {"train", "dev"} <= set(extras["optional-dependencies"])


def test_contributing_shows_the_layer_as_it_is() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for path, code in re.findall(r"<!-- file: (\S+) -->\n+```python\n(.*?)```", text, re.S):
        assert code == (ROOT / path).read_text("utf-8")
        break
    else:
        pytest.fail("CONTRIBUTING.md shows no layer")


PROGRAMS = re.findall(
    r"^```cnn\n(.*?)^```$", (ROOT / "docs" / "language.md").read_text(), re.S | re.M
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_the_language_page_compile_without_a_remark(program: str) -> None:
    assert convdsl.compile_text(program).warnings == ()


def test_the_language_page_names_paths_as_they_are() -> None:
    (blocks,) = [p for p in PROGRAMS if "block residual" in p]
    keys = [p.path for p in convdsl.compile_text(blocks).graph.parameters]
    assert "residual.add.0.body.conv2.bias" in keys
    assert "shared.conv.weight" in keys and "shared2.conv.weight" not in keys
