"""benchmarks/gpu where there is no device: the same code on the CPU, at tiny sizes."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import convdsl
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import ceilings, conv, record
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.layer import PARTS, layers, our_runs, their_runs
from benchmarks.gpu.networks import batches, load, loss_of, peer
from benchmarks.gpu.parity import compare, parity
from benchmarks.gpu.peers import PEERS, Peer, prepare
from benchmarks.gpu.train import best_peer, operations, roofline
from benchmarks.traffic import BATCHES
from convdsl.tuning.device import Cpu
from convdsl.tuning.timing import Times

SMALL = "input 4@5x6\nnet Small = CONV(6, F=3, S=2) - DWCONV(3) - CONV(8, F=1, bias=false)"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a quick run on digits."""
    path = tmp_path_factory.mktemp("gpu") / "quick.json"
    given = ["--device", "cpu", "--quick", "--network", "digits", "--json", str(path)]
    assert command.main(given) == 0
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_without_a_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "no CUDA device" in said.err and not said.out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--device", "cpu"], "--quick"),
        (["--part", "speed"], "no 'speed'"),
        (["--peer", "jax"], "no 'jax'"),
        (["--batch", "0"], "at least 1"),
        (["--network", "resnet5000"], "resnet50"),
    ],
)
def test_wrong_arguments(given: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(given)
    assert caught.value.code == 2 and reason in capsys.readouterr().err


def test_the_record_says_where_and_with_what(quick: dict[str, Any]) -> None:
    assert quick["device"]["name"] and quick["time"]
    assert quick["versions"]["torch"] == torch.__version__
    assert quick["versions"]["convdsl"] == convdsl.__version__
    assert "commit" in quick and quick["dtype"] == "bf16"


def test_training_has_times_and_reasons(quick: dict[str, Any]) -> None:
    made = quick["train"]["digits"]
    assert made["batch"] == 8 and made["ours"]["median_s"] > 0 and made["ours"]["rounds"] == 7
    assert list(made["peers"]) == list(PEERS)
    for title, found in made["peers"].items():
        if PEERS[title].needs_cuda:
            assert found == {"skipped": "needs a CUDA device"}
        else:
            ratio = found["peer"]["median_s"] / found["ours"]["median_s"]
            assert found["ratio"] == pytest.approx(ratio)
    assert made["best_peer"]["name"] in ("eager amp", "eager pure")
    least = made["roofline"]["least_s"]
    assert made["roofline"]["fraction"] == pytest.approx(least / made["ours"]["median_s"])


def test_curves_learn_and_lie_near_each_other(quick: dict[str, Any]) -> None:
    made = quick["parity"]["digits"]
    assert {len(curve) for curve in made["curves"].values()} == {12}
    assert made["last"]["ours"] < 0.9 * made["first"]
    assert 0 < made["gap_ours"] < 0.01 * made["first"]
    text = "\n".join(record.curves("digits", made))
    assert f"{made['gap_ours']:.2g}" in text


def test_networks_that_drop_at_random_have_no_curve() -> None:
    made = parity("alexnet", 1, "bf16", Cpu(), Budget(60, 60), True)
    assert "random" in made["skipped"]
    assert "random" in "".join(record.curves("alexnet", made))


def test_gaps_are_of_smoothed_curves() -> None:
    exact, other = [1.0, 3.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]
    found = compare({"float32": exact, "amp": other, "ours": [5.0] * 4})
    assert found["gap_amp"] == 0 and found["gap_ours"] == 3


def test_an_attempt_that_fails_gives_its_reason() -> None:
    budget = Budget(60, 0.05)

    def fail() -> None:
        raise torch.OutOfMemoryError("no room\nfor it")

    assert budget.attempt(lambda: 3) == 3
    assert budget.attempt(fail) == "OutOfMemoryError: no room"
    reason = budget.attempt(partial(time.sleep, 5))
    assert isinstance(reason, str) and "not done within" in reason
    assert budget.attempt(partial(time.sleep, 0.1), limit=5) is None
    assert Budget(0, 1).attempt(lambda: 3) == "no time left"


def test_a_call_without_time_still_writes_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "late.json"
    given = ["--device", "cpu", "--quick", "--network", "digits", "--minutes", "0"]
    assert command.main([*given, "--json", str(path)]) == 0
    made = json.loads(path.read_text())
    for part in ("bandwidth", "matmul"):
        assert made[part] == {"skipped": "no time left"}
    assert made["train"]["digits"]["skipped"] == "no time left"
    assert made["parity"]["digits"]["skipped"] == "no time left"


@pytest.mark.parametrize("name", ["digits", "lenet5"])
def test_peers_by_hand_are_the_generated_network(name: str) -> None:
    network = load(name)
    ours = network.module(device="cpu", target="torch")
    theirs = peer(name, network, ours.state_dict(), "cpu")
    assert not hasattr(theirs, "LABELS")
    ((x, y),) = batches(network, 3, "cpu", 1)
    loss = loss_of(theirs, "cpu", None)(x, y).item()
    assert loss == pytest.approx(ours(x, y).item(), rel=1e-5)


def test_generated_peers_have_the_networks_loss() -> None:
    network = convdsl.compile("networks/googlenet.cnn", input="3@96x96")
    ours = network.module(device="cpu", target="torch")
    theirs = peer("googlenet", network, ours.state_dict(), "cpu")
    ((x, y),) = batches(network, 2, "cpu", 1)
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(5)
    expected = ours(x, y).item()
    torch.manual_seed(5)
    assert loss_of(theirs, "cpu", None)(x, y).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("pure", [False, True])
def test_a_graphed_step_is_the_step(pure: bool) -> None:
    network = load("digits")
    state = network.module(device="cpu", target="torch").state_dict()
    data = batches(network, 4, "cpu", 2)
    curves = []
    for graph in (False, True):
        model = peer("digits", network, state, "cpu")
        x, y = data[0]
        x = x.bfloat16()
        step = prepare(Peer(pure=pure, graph=graph), model, torch.bfloat16, Cpu(), x, y)
        curves.append([float(step(x.bfloat16(), y)) for x, y in data * 2])
    assert curves[0] == curves[1] and curves[0][2] < curves[0][0]


def test_compiled_peers_have_no_graph_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load("digits")
    state = network.module(device="cpu", target="torch").state_dict()
    ((x, y),) = batches(network, 2, "cpu", 1)
    asked: list[dict[str, Any]] = []

    def compiled(function: Any, **options: Any) -> Any:
        asked.append(options)
        return real(function, backend="aot_eager", fullgraph=options["fullgraph"], dynamic=False)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compiled)
    step = prepare(
        PEERS["compile layout"], peer("digits", network, state, "cpu"), torch.bfloat16, Cpu(), x, y
    )
    assert float(step(x, y)) > 0
    assert asked == [{"mode": "default", "fullgraph": True, "dynamic": False}]


@pytest.mark.parametrize("name", BATCHES)
def test_every_network_has_data_and_is_counted(name: str) -> None:
    network = load(name)
    ((x, y),) = batches(network, 1, "cpu", 1)
    assert tuple(x.shape[1:]) == network.graph.inputs[0].type.shape and len(y) == 1
    macs = 2 * network.costs.macs
    assert 2.0 * macs < operations(network, 1) <= 3 * macs


def test_operations_leave_out_the_inputs_gradient() -> None:
    first, others = 117_600, 416_520 - 117_600
    assert operations(load("lenet5"), 512) == 2 * 512 * (2 * first + 3 * others)


def test_roofline_is_blank_without_ceilings() -> None:
    network = load("lenet5")
    moved = network.traffic(64, "bf16").total
    done = operations(network, 64)
    assert roofline(network, 64, "bf16", None, 1e12, 1.0) == {"bytes": moved, "operations": done}
    slow_memory = roofline(network, 64, "bf16", moved / 4, 1e30, 8.0)
    assert slow_memory["least_s"] == pytest.approx(4) and slow_memory["fraction"] == 0.5
    assert roofline(network, 64, "bf16", 1e30, done / 2, 8.0)["fraction"] == pytest.approx(0.25)


def test_the_best_peer_has_the_least_ratio() -> None:
    peers = {"a": {"ratio": 1.5}, "b": {"ratio": 0.9}, "c": {"skipped": "why"}}
    assert best_peer(peers) == {"name": "b", "ratio": 0.9}
    assert best_peer({"c": {"skipped": "why"}}) is None


def test_ceilings_are_rates() -> None:
    assert ceilings.Ceiling(6, Times((1.0, 2.0, 3.0))).rate == 3
    found = ceilings.products(Cpu(), torch.float16, quick=True)
    assert ceilings.best(found) == max(c.rate for c in found.values()) > 0


def test_all_convolutions_of_a_network() -> None:
    network = load("resnet50")
    found = layers(network)
    assert sum(layer.count for layer in found) == 53
    convolved = sum(layer.count * layer.operations(1) for layer in found) // 2
    assert network.macs - convolved == 2048 * 1000
    titles = [layer.title for layer in found]
    assert titles[0] == "3@224x224 -> 64, 7x7 /2" and len(set(titles)) == len(titles)


def test_recorded_launches_make_the_results_again() -> None:
    for layer in layers(convdsl.compile_text(SMALL)):
        given = conv.data(layer, 2, torch.float32, "cpu")
        runs, results = our_runs(layer, *given)
        expected = their_runs(layer, *given)[1]
        for part in PARTS:
            assert conv.error(results[part], expected[part]) < 1e-5
        before = results["forward"].clone()
        results["forward"].zero_()
        runs["forward"]()
        assert torch.equal(results["forward"], before)


def test_wrong_kernels_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    (layer, *_) = layers(convdsl.compile_text(SMALL))

    def wrong(*given: Any) -> Any:
        runs, results = our_runs(*given)
        return runs, {**results, "grad input": 1.01 * results["grad input"]}

    monkeypatch.setattr(conv, "our_runs", wrong)
    found = conv.measure(layer, 2, torch.float32, Cpu(), quick=True)
    assert found["forward"]["ratio"] > 0 and found["forward"]["rate"] > 0
    assert "wrong by 0.01" in found["grad input"]["skipped"] and "ratio" not in found["grad input"]
    made = {"batch": 2, "dtype": "fp32", "layers": {layer.title: {"count": 1, **found}}}
    text = "\n".join(record.convolution("small", made))
    assert layer.title in text and "wrong by 0.01" in text


def test_uneven_padding_has_no_peer() -> None:
    (layer,) = layers(convdsl.compile_text("input 2@6x6\nnet A = CONV(3, F=3, S=2, P=same)"))
    with pytest.raises(ValueError, match="padding"):
        their_runs(layer, *conv.data(layer, 1, torch.float32, "cpu"))


def test_a_skipped_network_is_named() -> None:
    made = {"batch": 4, "dtype": "bf16", "peers": {}, "skipped": "OutOfMemoryError: no room"}
    assert "no room" in "".join(record.training("vgg16", made))


@pytest.mark.gpu
def test_every_part_runs_on_a_device(tmp_path: Path) -> None:
    path = tmp_path / "quick.json"
    given = ["--quick", "--part", ",".join(command.PARTS), "--network", "digits", "lenet5"]
    peers = ",".join(title for title, chosen in PEERS.items() if chosen.mode is None)
    assert command.main([*given, "--peer", peers, "--json", str(path)]) == 0
    assert "skipped" not in path.read_text()
