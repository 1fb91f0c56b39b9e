"""The house keeps its order: floors, file length, who may know torch, Triton and layer names."""

import ast
import re
import statistics
from functools import cache
from pathlib import Path

import pytest

import convdsl.ops  # noqa: F401  (registers the layers)
from convdsl.ir.op import HEADS, LAYERS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "convdsl"
FILES = sorted(PACKAGE.rglob("*.py"))


def floors() -> dict[str, int]:
    """Room -> floor, as the table in CONTRIBUTING.md says."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*?) \|", text, flags=re.M)
    return {
        room.removesuffix(".py").removesuffix("/"): int(floor)
        for floor, rooms in rows
        for room in re.findall(r"`(.*?)`", rooms)
    }


FLOORS = floors()


def room(path: Path) -> str:
    """The top-level file or folder a file lives in; the package itself for ``__init__``."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, top_level_only: bool = False) -> list[str]:
    """Modules a file imports, except those only for type checkers."""
    tree = parsed(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_point_downward(path: Path) -> None:
    here = room(path)
    if here == "":
        return
    assert here in FLOORS, f"{here} stands on no floor"
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "convdsl" and len(parts) > 1 and parts[1] != here:
            assert FLOORS[parts[1]] <= FLOORS[here], f"{here} imports {module} from above"


def test_every_room_has_a_floor() -> None:
    assert FLOORS.keys() == {room(path) for path in FILES} - {""}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_and_triton_stay_on_their_floors(path: Path) -> None:
    here = room(path)
    foreign = {m.split(".")[0] for m in imports(path)} & {"torch", "triton"}
    if here == "kernels":
        outside = {m.split(".")[0] for m in imports(path)} - {"triton", "convdsl"}
        assert not outside, f"kernels import only triton, not {outside}"
    elif here not in ("runtime", "reference", "weights", "optim", "tuning", "train"):
        assert not foreign, f"{here} imports {foreign}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_median_file_stays_near_150_lines() -> None:
    lengths = [len(p.read_text(encoding="utf-8").splitlines()) for p in FILES if room(p)]
    assert statistics.median(lengths) <= 150


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) != "ops"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_layer_names_live_in_ops_only(path: Path) -> None:
    """No string constant outside ops/ is the name of a layer (prose in docstrings may be)."""
    names = (set(LAYERS) | set(HEADS)) - {"ID"}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in names, f"line {node.lineno} names the layer {node.value}"


def test_the_grammar_names_no_layer() -> None:
    text = re.sub(r"//.*", "", (ROOT / "grammars" / "cnn.lark").read_text(encoding="utf-8"))
    words = set(re.findall(r'"([A-Z_]+)"', text))
    assert not words & set(LAYERS)


def test_every_module_says_what_it_is() -> None:
    silent = [str(p) for p in FILES if not ast.get_docstring(parsed(p))]
    assert not silent


def test_a_pointwise_layer_is_one_file() -> None:
    """CONTRIBUTING's recipe, counted: nothing but its own file knows SWISH."""
    knowing = [p.name for p in FILES if re.search(r"\bswish\b", p.read_text("utf-8").lower())]
    assert knowing == ["swish.py"]


def test_no_kernel_uses_atomics() -> None:
    """Sums are taken in a fixed order, so that two runs give the same bits."""
    using = [p.name for p in FILES if room(p) == "kernels" and "tl.atomic" in p.read_text("utf-8")]
    assert not using
