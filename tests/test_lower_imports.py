"""Imports: whose names a block means, and which files may be read at all."""

from pathlib import Path

import pytest

from convdsl.diagnostics import CompileError
from convdsl.lower import Limits, Lowered, Options, lower
from convdsl.syntax.parser import parse
from convdsl.syntax.reader import read_source


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.cnn"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(folder: Path, name: str = "main", limits: Limits | None = None) -> Lowered:
    program = parse(read_source(folder / f"{name}.cnn"))
    return lower(program, Options(root=folder, limits=limits or Limits()))


def errors(folder: Path, limits: Limits | None = None) -> list[str]:
    with pytest.raises(CompileError) as caught:
        load(folder, limits=limits)
    return [d.code for d in caught.value.diagnostics]


def test_a_block_means_the_names_of_its_own_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        main="""
        import "lib/blocks.cnn" (cr)
        let width = 5
        default CONV(F=1)
        block inner = POOL
        input 8x8x3
        net a = cr - CONV(width) - inner
        """,
        lib__blocks="""
        import "more.cnn" (inner)
        let width = 7
        default CONV(F=3, P=0)
        block cr = CONV(width) - inner
        net ignored = NOTHING
        """,
        lib__more="block inner = RELU - RELU",
    )
    lowered = load(tmp_path)
    shapes = [node.output.type.shape for node in lowered.graph.nodes]
    assert shapes == [(7, 6, 6)] * 3 + [(5, 6, 6), (5, 3, 3)]
    assert lowered.warnings == ()
    assert [path.name for path in lowered.uses.files] == ["blocks.cnn", "more.cnn"]


def test_a_shared_file_is_read_once_and_shares_its_module(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='import "a.cnn" (left)\nimport "b.cnn" (right)\ninput 8\nnet n = left - right',
        a='import "c.cnn" (tower)\nblock left = tower',
        b='import "c.cnn" (tower)\nblock right = tower',
        c="module tower = FC(8)",
    )
    lowered = load(tmp_path)
    assert [p.path for p in lowered.graph.parameters] == ["tower.fc.weight", "tower.fc.bias"]
    assert len(lowered.uses.files) == 3


def test_modules_of_one_name_in_two_files_stay_apart(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='import "a.cnn" (left)\nmodule tower = FC(8)\ninput 8\nnet n = left - tower',
        a="module tower = FC(8)\nblock left = tower",
    )
    keys = [p.path for p in load(tmp_path).graph.parameters]
    assert keys == ["tower.fc.weight", "tower.fc.bias", "tower2.fc.weight", "tower2.fc.bias"]


def test_nothing_outside_the_root_is_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(tmp_path, secret="block leak = RELU")
    write(root, main='import "../secret.cnn" (leak)\ninput 8\nnet n = leak')
    assert errors(root) == ["E301"]
    (root / "link.cnn").symlink_to(tmp_path / "secret.cnn")
    write(root, main='import "link.cnn" (leak)\ninput 8\nnet n = leak')
    assert errors(root) == ["E301"]
    (root / "folder").symlink_to(tmp_path)
    write(root, main='import "folder/secret.cnn" (leak)\ninput 8\nnet n = leak')
    assert errors(root) == ["E301"]


def test_only_programs_are_read(tmp_path: Path) -> None:
    (tmp_path / "passwords.txt").write_text("hunter2 hunter2")
    (tmp_path / "alias.cnn").symlink_to(tmp_path / "passwords.txt")
    for name in ("passwords.txt", "alias.cnn", "/etc/hosts", ".", "a" * 5000 + ".cnn"):
        write(tmp_path, main=f'import "{name}" (leak)\ninput 8\nnet n = leak')
        with pytest.raises(CompileError) as caught:
            load(tmp_path)
        assert [d.code for d in caught.value.diagnostics] == ["E301"]
        assert "hunter2" not in str(caught.value)


def test_a_file_that_is_missing_or_broken(tmp_path: Path) -> None:
    write(tmp_path, main='import "none.cnn" (leak)\ninput 8\nnet n = leak')
    assert errors(tmp_path) == ["E300"]
    write(tmp_path, broken="block b = (RELU", main='import "broken.cnn" (b)\ninput 8\nnet n = b')
    with pytest.raises(CompileError) as caught:
        load(tmp_path)
    (found,) = caught.value.diagnostics
    assert found.code == "E102"
    assert found.labels[0].span.source.name == str(tmp_path / "broken.cnn")


def test_errors_in_imported_blocks_are_found_unused_too(tmp_path: Path) -> None:
    write(
        tmp_path,
        lib="block b = RELU\nblock c = POOLL(3)\nblock d = d",
        main='import "lib.cnn" (b)\ninput 8\nnet n = b',
    )
    assert errors(tmp_path) == ["E200", "E209"]


def test_cycles_and_wrong_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        a='import "b.cnn" (q)\nblock p = q',
        b='import "a.cnn" (p)\nblock q = p',
        main='import "a.cnn" (p)\ninput 8\nnet n = p',
    )
    assert errors(tmp_path) == ["E302"]
    write(tmp_path, main='import "main.cnn" (p)\ninput 8\nblock p = RELU\nnet n = p')
    assert "E302" in errors(tmp_path)
    write(tmp_path, b="block q = RELU", main='import "a.cnn" (q)\ninput 8\nnet n = q')
    assert errors(tmp_path) == ["E303"]


def test_imports_are_counted(tmp_path: Path) -> None:
    for k in range(6):
        write(tmp_path, **{f"m{k}": f"block b{k} = RELU"})
    lines = [f'import "m{k}.cnn" (b{k})' for k in range(6)]
    net = "net n = " + " - ".join(f"b{k}" for k in range(6))
    write(tmp_path, main="\n".join([*lines, "input 8", net]))
    assert len(load(tmp_path).graph.nodes) == 6
    assert errors(tmp_path, Limits(imports=5)) == ["E304"]
    for k in range(5):
        write(tmp_path, **{f"m{k}": f'import "m{k + 1}.cnn" (b{k + 1})\nblock b{k} = b{k + 1}'})
    write(tmp_path, main='import "m0.cnn" (b0)\ninput 8\nnet n = b0')
    assert len(load(tmp_path).graph.nodes) == 1
    assert errors(tmp_path, Limits(depth=4)) == ["E304"]
