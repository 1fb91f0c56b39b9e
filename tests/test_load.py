"""Compiled networks as modules: loading, saving, copying, training, and the cache of generated
files."""

import copy
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

import convdsl
from convdsl.compiler import Network
from convdsl.pipeline import OPTIONAL
from convdsl.runtime.cache import cache_dir
from convdsl.runtime.load import load_text

PROGRAM = """\
input 2@6x6
let N = 1
block unit(k) = CONV(k) - RELU
net Small = [unit(4)*N - POOL]*1 - ADD{CONV(4) | ID} - TANH - FC(8) - RELU - FC(3), SOFTMAX
"""
TARGETS = ("torch", "triton")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, named by CONVDSL_CACHE."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CONVDSL_CACHE", str(folder))
    cache_dir.cache_clear()
    yield folder
    cache_dir.cache_clear()


@pytest.fixture
def net() -> Network:
    return convdsl.compile_text(PROGRAM)


@pytest.fixture(params=TARGETS)
def model(request: pytest.FixtureRequest, net: Network) -> nn.Module:
    torch.manual_seed(0)
    return net.module(device="cpu", target=request.param)


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, 6, 6, generator=generator)
    return x, torch.randint(3, (count,), generator=generator)


def python(program: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A program in a process of its own. TRITON_INTERPRET is set only if asked for."""
    given = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )


# ---- state


def test_state_dict_through_safetensors(model: nn.Module, net: Network, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_model(model, str(path))  # which brings weights into the order of their axes
    x, y = batch()
    for target in TARGETS:
        other = net.module(device="cpu", target=target)
        assert not torch.equal(other(x), model(x))
        other.load_state_dict(load_file(path))
        torch.testing.assert_close(other(x, y), model(x, y), rtol=1e-5, atol=1e-6)


def test_state_dict_through_torch_save(model: nn.Module, net: Network, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = net.module(device="cpu", target="torch")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_keys_come_from_the_language(net: Network) -> None:
    expected = [p.path for p in net.graph.parameters]
    assert {key.split(".")[-1] for key in expected} == {"weight", "bias"}
    unfused = Network(net.source, net.program, net.lowered, tuple(OPTIONAL))
    for compiled in (net, unfused):
        for target in TARGETS:
            assert list(compiled.module(device="cpu", target=target).state_dict()) == expected
    assert sum(p.numel() for p in net.module(target="torch").parameters()) == net.parameters_count


def test_a_copy_is_equal_and_independent(model: nn.Module) -> None:
    x, y = batch()
    before = model(x, y).item()
    twin = copy.deepcopy(model)
    assert twin(x, y).item() == before
    nn.init.zeros_(next(twin.parameters()))
    assert model(x, y).item() == before


def test_pickled_models_compute_the_same_elsewhere(tmp_path: Path) -> None:
    # a name of its own: a module loaded by an earlier test lies in that test's cache
    net = convdsl.compile_text(PROGRAM.replace("Small", "Pickled"))
    x, y = batch()
    models = [net.module(device="cpu", target=target) for target in TARGETS]
    pickled = pickle.dumps([(model, x, y, model(x, y).item()) for model in models])
    (tmp_path / "models.pkl").write_bytes(pickled)
    program = (
        "import pickle\n"
        "for m, x, y, l in pickle.load(open('models.pkl', 'rb')):\n"
        "    assert abs(m(x, y).item() - l) < 1e-5\n"
        "    print(type(m).__name__)"
    )
    done = python(program, tmp_path, TRITON_INTERPRET="1")
    assert done.stdout.split() == ["Pickled"] * len(TARGETS), done.stderr


# ---- behaving as a module


def test_to_changes_the_parameters_and_what_is_computed_in(model: nn.Module) -> None:
    x, _ = batch()
    expected = model(x)
    halved = model.to(torch.float16)
    assert {p.dtype for p in halved.parameters()} == {torch.float16}
    assert halved(x).dtype == torch.float16
    torch.testing.assert_close(halved(x).float(), expected, rtol=2e-2, atol=2e-2)
    assert model.to(torch.float32)(x).dtype == torch.float32


def test_float64_is_exact_in_torch_and_refused_by_the_kernels(net: Network) -> None:
    x, _ = batch()
    assert net.module(target="torch").double()(x.double()).dtype == torch.float64
    kernels = net.module(device="cpu", target="triton").double()
    with pytest.raises(ValueError, match=r"not torch\.float64"):
        kernels(x.double())


@pytest.mark.parametrize("target", TARGETS)
def test_train_and_eval(target: str) -> None:
    net = convdsl.compile_text("input 40 net Drop = DROPOUT(0.5)")
    model = net.module(device="cpu", target=target)
    x = torch.ones(10, 40)
    assert model.training
    assert 0 < int((model(x) == 0).sum()) < 400
    assert torch.equal(model.eval()(x), x)
    assert not torch.equal(model.train()(x), x)


def test_inside_a_sequential(model: nn.Module) -> None:
    whole = nn.Sequential(nn.Conv2d(1, 2, 1), model, nn.LogSoftmax(1))
    x, y = torch.randn(4, 1, 6, 6), batch()[1]
    nn.functional.nll_loss(whole(x), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in whole.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_training_lowers_the_loss(model: nn.Module, optimizer: type[torch.optim.Optimizer]) -> None:
    x, y = batch(8)
    steps = optimizer(model.parameters(), lr=0.05)  # type: ignore[call-arg]
    losses = []
    for _ in range(4):
        loss = model(x, y)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_accumulate(model: nn.Module) -> None:
    x, y = batch(4)
    model(x, y).backward()
    whole = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    for rows in (slice(0, 2), slice(2, 4)):
        (model(x[rows], y[rows]) / 2).backward()
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_frozen_parameter_gets_no_gradient(model: nn.Module) -> None:
    x, y = batch()
    model(x, y).backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    frozen = next(iter(expected))
    model.get_parameter(frozen).requires_grad_(False)
    model(x, y).backward()
    for key, parameter in model.named_parameters():
        if key == frozen:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-5, atol=1e-6)


def test_all_parameters_frozen_still_gives_the_input_s_gradient(model: nn.Module) -> None:
    x, y = batch()
    x.requires_grad_()
    model(x, y).backward()
    assert x.grad is not None
    expected, x.grad = x.grad, None
    model.requires_grad_(False)
    model(x, y).backward()
    torch.testing.assert_close(x.grad, expected)


def test_autocast_computes_in_its_own_type(net: Network) -> None:
    model = net.module(device="cpu", target="torch")
    x, y = batch()
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
        loss = model(x, y)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=5e-2, atol=5e-2)
    loss.backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_torch_compile_traces_the_plain_target(net: Network) -> None:
    model = net.module(device="cpu", target="torch")
    traced = torch.compile(model, backend="aot_eager")
    x, _ = batch()
    torch.testing.assert_close(traced(x), model(x))


# ---- loading and its arguments


def test_load_is_compile_and_module(tmp_path: Path) -> None:
    path = tmp_path / "small.cnn"
    path.write_text(PROGRAM)
    assert convdsl.load(path, target="torch")(batch()[0]).shape == (4, 3)
    deep = convdsl.load(path, target="torch", N=3)
    assert len(list(deep.parameters())) == len(list(convdsl.load(path).parameters())) + 4
    wide = convdsl.load(path, target="torch", input="5@6x6", layout="NHWC")
    assert wide(torch.randn(2, 6, 6, 5)).shape == (2, 3)
    with pytest.raises(convdsl.CompileError, match="E227"):
        convdsl.load(path, M=3)


def test_bad_arguments_are_refused_in_words(net: Network) -> None:
    with pytest.raises(ValueError, match="target must be 'triton' or 'torch', got 'jax'"):
        net.module(target="jax")
    with pytest.raises(ValueError, match="layout must be NCHW or NHWC, got 'CHWN'"):
        net.module(layout="CHWN")
    with pytest.raises(ValueError, match=r"dtype must be floating point, got torch\.int32"):
        net.module(dtype=torch.int32)


def test_triton_on_a_cpu_names_the_way_out(tmp_path: Path) -> None:
    program = (
        "import convdsl\n"
        "try: convdsl.compile_text('input 3 net N = RELU').module(device='cpu', target='triton')\n"
        "except ValueError as error: print(error)"
    )
    done = python(program, tmp_path)
    assert "needs a CUDA or ROCm device, not cpu" in done.stdout, done.stderr
    assert "TRITON_INTERPRET=1" in done.stdout


# ---- the cache


def generated(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.py") if p.is_file())


def fresh(name: str) -> str:
    """Source no other test has loaded: modules are kept by their text."""
    return f'"""{name}"""\nVALUE = {name!r}\n'


def test_the_cache_is_where_convdsl_cache_says(cache: Path) -> None:
    assert load_text(fresh("where"), "Where").VALUE == "where"
    (path,) = generated(cache)
    assert path.read_text() == fresh("where")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert not list(cache.glob(".*"))


def test_one_text_is_one_module(cache: Path) -> None:
    assert load_text(fresh("once"), "Once") is load_text(fresh("once"), "Once")
    assert load_text(fresh("twice"), "Once") is not load_text(fresh("once"), "Once")
    assert len(generated(cache)) == 2


@pytest.mark.parametrize("damage", [b"", b"VALUE = 'other'\n", b"\xff\xfe\x00", b"def broken("])
def test_a_damaged_file_is_rewritten(cache: Path, damage: bytes) -> None:
    text = fresh(f"damaged {damage.hex()}")
    module = load_text(text, "Damaged")
    (path,) = generated(cache)
    path.write_bytes(damage)
    del sys.modules[module.__name__]
    assert load_text(text, "Damaged").VALUE == module.VALUE
    assert path.read_text() == text


def test_a_folder_others_can_write_is_not_used(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    planted = cache / "planted.py"
    planted.write_text("raise SystemExit('run by somebody else')")
    assert load_text(fresh("shared"), "Shared").VALUE == "shared"
    assert list(cache.iterdir()) == [planted]
    assert cache_dir() != cache


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_not_used(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    assert load_text(fresh("locked"), "Locked").VALUE == "locked"
    assert not list(cache.iterdir())


def test_a_file_in_the_folder_s_place(cache: Path) -> None:
    cache.write_text("not a folder")
    assert load_text(fresh("file"), "File").VALUE == "file"
    assert cache.read_text() == "not a folder"


def test_what_a_killed_process_left_is_no_hindrance(cache: Path) -> None:
    text = fresh("left")
    module = load_text(text, "Left")
    (path,) = generated(cache)
    path.unlink()
    del sys.modules[module.__name__]
    path.with_name(f".{path.name}.{os.getpid()}.tmp").write_text("half")
    assert load_text(text, "Left").VALUE == "left"
    assert path.read_text() == text


def test_a_module_that_fails_is_not_kept() -> None:
    text = "raise RuntimeError('at import')"
    for _ in range(2):
        with pytest.raises(RuntimeError, match="at import"):
            load_text(text, "Failing")


def test_two_processes_at_once(cache: Path, tmp_path: Path) -> None:
    program = (
        "import convdsl, torch\n"
        f"net = convdsl.compile_text({PROGRAM!r})\n"
        "print(net.module(target='torch')(torch.zeros(1, 2, 6, 6)).shape)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].decode().strip() for process in running]
    assert outputs == ["torch.Size([1, 3])"] * 2
    assert len(generated(cache)) == 1
    assert not list(cache.glob(".*"))


def test_maps_in_plain_pytorch_lie_as_the_filters_do() -> None:
    """Channels last from the start, filters on one channel too; as they come if a user says so."""
    program = "input 1@6x5 net Maps = CONV(4) - RELU - POOL(2, S=1) - CONV(3)"
    model = convdsl.compile_text(program).module(device="cpu", target="torch")
    x, order = torch.randn(2, 1, 6, 5), torch.channels_last
    assert model(x).is_contiguous(memory_format=order)
    assert model.conv.weight.stride() == (9, 1, 3, 1)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    assert plain(x).is_contiguous()
    torch.testing.assert_close(plain(x), model(x))
    model.load_state_dict(plain.state_dict())
    assert model(x).is_contiguous(memory_format=order)
