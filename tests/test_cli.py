"""The command line as its users meet it: streams, exit codes, files, speed, and hostile input."""

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convdsl.cli import main
from convdsl.cli.write import write_atomically
from convdsl.errors import CATALOGUE

LENET = """\
input 32x32x1
net LeNet5 =
    [CONV(k, F=5, P=0) - RELU - POOL]*(k in 6, 16)  :: 5x5x16
  - [FC(n) - RELU]*(n in 120, 84)
  - FC(10), SOFTMAX
"""
SLIDE = "[(CONV-RELU)*N-POOL]*M-(FC-RELU)*K-FC(10), SOFTMAX"
DEBUG_OFF = {k: v for k, v in os.environ.items() if k != "CONVDSL_DEBUG"}

Run = tuple[int, str, str]


def process(*arguments: str, data: bytes = b"", **options: object) -> Run:
    """The command as a process of its own; no traceback may ever be seen."""
    done = subprocess.run(
        [sys.executable, "-m", "convdsl", *arguments],
        input=data,
        capture_output=True,
        timeout=20,
        **{"env": DEBUG_OFF, **options},  # type: ignore[call-overload]
    )
    out, err = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    assert "Traceback" not in out + err
    return done.returncode, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """The command in this process."""
    monkeypatch.delenv("CONVDSL_DEBUG", raising=False)

    def call(*arguments: str) -> Run:
        with pytest.raises(SystemExit) as exit:
            main(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return exit.value.code, captured.out, captured.err

    return call


@pytest.fixture
def lenet(tmp_path: Path) -> str:
    path = tmp_path / "lenet5.cnn"
    path.write_text(LENET)
    return str(path)


def test_compile_prints_the_table(run, lenet) -> None:
    code, out, err = run("compile", lenet)
    assert (code, err) == (0, "")
    assert "61,706" in out and "416,520" in out and "156" in out
    assert out.isascii()


def test_the_lecture_pattern_from_the_command_line(run) -> None:
    code, out, _ = run(
        *("compile", "-e", SLIDE, "--input", "32x32x3", "-D", "N=2", "-D", "M=2", "-D", "K=1"),
        *("--default", "CONV(K=16)", "--default", "FC(K=64)"),
    )
    assert code == 0
    assert "32x32x3 -> 10, SOFTMAX" in out


def test_standard_input(lenet) -> None:
    assert process("compile", "-", data=LENET.encode())[0] == 0
    code, out, _ = process("check", "-", data=b"input 8x8x3\nnet a = CONVV(3)\n")
    assert code == 1 and "--> <stdin>:2:9" in out


def test_errors_go_to_stderr_with_exit_code_1(run) -> None:
    code, out, err = run("compile", "-e", "input 8x8x3\nnet a = CONVV(3)")
    assert (code, out) == (1, "")
    assert "error[E200]" in err and "CONV" in err and "1 error" in err


def test_warnings_alone_are_no_failure_unless_strict(run, tmp_path) -> None:
    path = tmp_path / "a.cnn"
    path.write_text("input 8x8x3\nlet unused = 3\nnet a = CONV(3)\n")
    code, out, err = run("compile", str(path))
    assert code == 0 and out and "warning[W304]" in err and "1 warning" in err
    code, out, err = run("compile", "--strict", str(path))
    assert code == 1 and out and "warning[W304]" in err


def test_strict_refuses_uneven_sizes(run) -> None:
    arguments = ("compile", "-e", "input 7x7x1\nnet a = POOL(3, S=3)")
    code, _, err = run(*arguments)
    assert code == 0 and "2.33" in err
    code, _, err = run(*arguments, "--strict")
    assert code == 1 and "error[E224]" in err


def test_json_report_is_stable_and_complete(run, lenet) -> None:
    code, out, err = run("compile", lenet, "--format", "json", "--batch", "4", "--dtype", "bf16")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["totals"]["parameters"] == 61_706
    assert document["training"]["batch"] == 4
    assert run("compile", lenet, "--format", "json", "--batch", "4", "--dtype", "bf16")[1] == out


def test_json_errors(run) -> None:
    code, out, err = run("compile", "-e", "net a = CONVV", "--format", "json")
    assert (code, out) == (1, "")
    assert json.loads(err)["errors"] >= 1


def test_explain_a_layer(run, lenet) -> None:
    code, out, _ = run("compile", lenet, "--explain", "1")
    assert code == 0
    assert "W2 = (W1 - F + 2P)/S + 1 = (32 - 5 + 0)/1 + 1 = 28" in out
    code, out, err = run("compile", lenet, "--explain", "COONV")
    assert code == 2 and out == "" and "Did you mean" in err


@pytest.mark.parametrize("stage", ["ast", "ir", "fused", "triton", "torch"])
def test_emit_to_a_file_and_to_stdout_is_the_same(run, lenet, tmp_path, stage: str) -> None:
    target = tmp_path / "out.txt"
    code, out, _ = run("compile", lenet, "--emit", stage)
    assert code == 0 and out.strip()
    code, nothing, _ = run("compile", lenet, "--emit", stage, "-o", str(target))
    assert (code, nothing) == (0, "")
    assert target.read_text(encoding="utf-8") == out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_batch_adds_the_memory_plan(run, lenet) -> None:
    assert "training step" in run("compile", lenet, "--batch", "32")[1]
    assert "training step" not in run("compile", lenet)[1]


def test_check_many_files_in_every_format(run, lenet, tmp_path) -> None:
    bad = tmp_path / "bad.cnn"
    bad.write_text("input 8x8x3\nnet a = CONVV(3) - RELUU\n")
    code, out, err = run("check", lenet)
    assert (code, out, err) == (0, "1 file checked, nothing found\n", "")
    code, out, _ = run("check", lenet, str(bad))
    assert code == 1 and "2 errors" in out
    code, out, _ = run("check", lenet, str(bad), "--format", "json")
    assert code == 1 and json.loads(out)["errors"] == 2
    code, out, _ = run("check", str(bad), "--format", "sarif")
    assert code == 1 and len(json.loads(out)["runs"][0]["results"]) == 2


@pytest.mark.parametrize("code", CATALOGUE)
def test_explain_knows_every_code(run, code: str) -> None:
    result, out, _ = run("explain", code.lower())
    assert result == 0 and CATALOGUE[code].title in out


def test_explain_suggests(run) -> None:
    code, _, err = run("explain", "E2100")
    assert code == 2 and "E210" in err


def test_layers(run) -> None:
    from convdsl.ir.op import HEADS, LAYERS

    code, out, _ = run("layers")
    assert code == 0
    assert all(name in out for name in (*LAYERS, *HEADS))
    for name, layer in LAYERS.items():
        code, out, _ = run("layers", name.lower())
        assert code == 0
        assert all(spec.name in out and spec.convert for spec in layer.arguments())
    code, _, err = run("layers", "CONVV")
    assert code == 2 and "Did you mean CONV" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile",),
        ("compile", "a.cnn", "-e", "RELU"),
        ("compile", "-e", "RELU", "--input", "3", "--batch", "0"),
        ("compile", "-e", "RELU", "--input", "3", "--emit", "ptx"),
        ("compile", "-e", "RELU", "--input", "3", "--emit", "ir", "--explain", "1"),
        ("compile", "-e", "RELU", "--input", "3", "-D", "N"),
        ("compile", "-e", "RELU", "--input", "3", "-D", "N=1", "-D", "N=2"),
        ("compile", "missing.cnn"),
        ("compile", "."),
        ("check",),
        ("check", "missing.cnn"),
        ("frobnicate",),
        ("compile", "--frobnicate"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and (err or out) and "Traceback" not in err


def test_did_you_mean_for_commands_and_options(run) -> None:
    assert "compile" in run("comple")[2]
    assert "--batch" in run("compile", "--bach", "3")[2]


def test_version_and_help(run) -> None:
    from convdsl import __version__

    assert run("--version") == (0, f"convdsl, version {__version__}\n", "")
    for command in ("compile", "check", "explain", "layers"):
        code, out, _ = run(command, "--help")
        assert code == 0 and "Usage: convdsl" in out


# ---- files that are written


def test_the_program_is_never_overwritten(run, lenet, tmp_path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(lenet)
    for target in (lenet, str(link)):
        code, _, err = run("compile", lenet, "--emit", "ir", "-o", target)
        assert code == 2 and "overwrite" in err
    assert Path(lenet).read_text() == LENET


def test_an_imported_file_is_never_overwritten(run, tmp_path) -> None:
    blocks, program = tmp_path / "blocks.cnn", tmp_path / "net.cnn"
    blocks.write_text("block body = RELU")
    program.write_text('import "blocks.cnn" (body)\ninput 8\nnet a = body')
    code, _, err = run("compile", str(program), "-o", str(blocks))
    assert code == 2 and "overwrite" in err
    assert blocks.read_text() == "block body = RELU"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net.py"
    target.write_text("old")

    def fail(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "net.py", tmp_path / "link.py"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_atomically(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_unwritable_targets(run, lenet, tmp_path) -> None:
    for target in (tmp_path, tmp_path / "no" / "such" / "folder.py"):
        code, _, err = run("compile", lenet, "--emit", "ir", "-o", str(target))
        assert code == 2 and "cannot write" in err
    assert run("compile", lenet, "--emit", "ir", "-o", os.devnull)[0] == 0
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)  # not replaced by a file


# ---- streams


def test_ascii_streams_never_fail() -> None:
    env = {**DEBUG_OFF, "PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "PYTHONUTF8": "0"}
    code, _, err = process("compile", "-e", "input 8x8x3\nnet é漢 = CONVV(3)", env=env)
    assert code == 1 and err.isascii()


def test_a_closed_pipe_is_quiet(lenet) -> None:
    command = f"{sys.executable} -m convdsl compile {lenet} --emit triton; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({command}) | head -c 0"], capture_output=True, timeout=20, env=DEBUG_OFF
    )
    assert done.stderr.decode().strip() in ("141", "0")  # 0: head left after the last byte


def test_a_full_disk_is_reported(lenet) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "convdsl", "compile", lenet],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=20,
            env=DEBUG_OFF,
        )
    assert done.returncode == 2
    assert b"cannot write the output" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colour_on_a_terminal_only(lenet, no_color: str, colored: bool) -> None:
    ours, theirs = pty.openpty()
    env = {**DEBUG_OFF, "NO_COLOR": no_color, "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-m", "convdsl", "check", lenet, "/missing.cnn"],
        stdout=theirs,
        timeout=20,
        env=env,
    )
    os.close(theirs)
    text = os.read(ours, 10_000)
    os.close(ours)
    assert b"E300" in text
    assert (b"\x1b[" in text) is colored


#: the number of the system call, on x86_64 and on aarch64
READ = ("0", "63")


def test_interrupt_is_130(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "convdsl", "check", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=DEBUG_OFF,
    )
    call = Path(f"/proc/{running.pid}/syscall")
    for _ in range(600):
        number, *arguments = call.read_text().split()
        if number in READ and arguments[0] == "0x0":
            break  # it waits for the end of its input
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130 and b"Traceback" not in err


def test_faults_of_ours_say_so(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import convdsl.cli.compile

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(convdsl.cli.compile, "findings", fail)
    code, out, err = run("compile", "-e", "RELU", "--input", "3")
    assert (code, out) == (70, "")
    assert "RuntimeError: broken" in err and "CONVDSL_DEBUG=1" in err and "Traceback" not in err


# ---- speed and weight

HEAVY = """
import sys
from convdsl.cli import main
try:
    main(sys.argv[1:])
except SystemExit as exit:
    assert exit.code == 0, exit.code
heavy = {"torch", "triton", "numpy", "rich"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "arguments",
    [("--batch", "8"), ("--emit", "triton"), ("--emit", "torch"), ("--format", "json")],
    ids=" ".join,
)
def test_compile_imports_nothing_heavy(lenet, arguments: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-c", HEAVY, "compile", lenet, *arguments], check=True)
