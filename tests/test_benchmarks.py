"""The CPU benchmark: fair contenders, honest clocks, its table and its JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import convdsl
from benchmarks.cpu.__main__ import best, main, ratio
from benchmarks.cpu.contest import (
    FILES,
    FORMATS,
    PARTS,
    PRECISIONS,
    Case,
    can_compile,
    check_agreement,
    contenders,
    copy_tensors,
    make_run,
)
from benchmarks.cpu.page import PAGE, RESULTS, page, update
from benchmarks.cpu.peers import PEERS
from convdsl.tuning.timing import WARM_UPS, Times, interleave


def test_runs_are_timed_in_turn_each_first_once() -> None:
    called: list[str] = []
    runs = {name: lambda name=name: called.append(name) for name in "abc"}
    times = interleave(runs, 3, clock=lambda run, calls: float(run() is None), round_seconds=1.0)
    assert "".join(called[(WARM_UPS + 1) * 3 :]) == "abcbcacab"
    assert all(t.rounds == (1.0,) * 3 for t in times.values())


def test_quick_runs_are_called_more_often() -> None:
    asked: list[int] = []

    def clock(run: Callable[[], object], calls: int) -> float:
        asked.append(calls)
        return 0.001

    interleave({"quick": lambda: None}, 2, clock=clock, round_seconds=0.0205)
    assert asked == [1, 20, 20]


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleave({}, 0)


def test_median_and_spread() -> None:
    times = Times((4.0, 1.0, 2.0, 3.0, 10.0))
    assert times.median == 3.0
    assert times.spread == pytest.approx((4.0 - 2.0) / 3.0)
    assert Times((2.0,)).spread == 0.0


def test_the_ratio_is_the_best_peers_time_over_our_best() -> None:
    """Round by round: in the third the machine was slow, in the second only for us."""
    rounds = {
        "ours eager": (2.0, 3.0, 20.0),
        "ours compiled": (4.0, 4.0, 4.0),
        "eager NCHW": (5.0, 5.0, 5.0),
        "compiled NCHW": (3.0, 3.0, 30.0),
    }
    times = {name: Times(seconds) for name, seconds in rounds.items()}
    assert (best(times, True), best(times, False)) == ("ours eager", "compiled NCHW")
    assert ratio(times) == 1.5


@pytest.mark.parametrize("network", FILES)
def test_peers_compute_the_same_network(network: str) -> None:
    """In training and in evaluation, from other parameters than those they start with."""
    net = convdsl.compile(FILES[network])
    ours, peer = net.module(device="cpu", target="torch"), PEERS[network]()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*ours.parameters(), *ours.buffers()):
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))
    copy_tensors(ours, peer)
    x = torch.randn(4, *net.graph.inputs[0].type.shape, generator=generator)
    for training in (True, False):
        a, b = ours.train(training)(x), peer.train(training)(x)
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.detach().abs().max()))


def test_networks_that_do_not_pair_up_are_refused() -> None:
    ours = convdsl.compile(FILES["digits"]).module(device="cpu", target="torch")
    with pytest.raises(ValueError, match=r"is \(16, 1, 3, 3\), 0.weight is \(6, 1, 5, 5\)"):
        copy_tensors(ours, PEERS["lenet5"]())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_contenders_agree_and_are_what_they_say(precision: str, part: str) -> None:
    case = Case("digits", precision, part, 8)
    found = list(contenders(case, ("eager",)))
    assert [c.name for c in found] == ["ours eager", *(f"eager {name}" for name in FORMATS)]
    masters = torch.bfloat16 if precision == "pure" else torch.float32
    assert {p.dtype for c in found for p in c.module.parameters()} == {masters}
    assert all(c.module.training == (part == "training") for c in found)
    runs = {c.name: make_run(c, case) for c in found}
    check_agreement(runs, case)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="there is no C++ compiler")
@pytest.mark.parametrize("part", PARTS)
def test_compiled_contenders_agree(part: str) -> None:
    case = Case("lenet5", "bf16", part, 8)
    found = list(contenders(case, ("compiled",)))
    assert [c.name for c in found] == ["ours compiled", *(f"compiled {name}" for name in FORMATS)]
    check_agreement({c.name: make_run(c, case) for c in found}, case)


def test_without_a_compiler_only_eager_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = CliRunner().invoke(main, ["--quick", "--way", "compiled", "--part", "inference"])
    assert done.exit_code == 0, done.output
    assert "no C++ compiler" in done.stderr
    assert " compiled " not in done.stdout


def test_disagreement_is_told() -> None:
    case = Case("digits", "fp32", "inference", 2)
    runs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: torch.ones(2, 10),
        "eager": lambda: torch.full((2, 10), 1.01),
    }
    with pytest.raises(ValueError, match=r"digits fp32 inference: eager is 1\.0% off"):
        check_agreement(runs, case)
    runs["eager"] = lambda: torch.full((2, 10), float("nan"))
    with pytest.raises(ValueError, match="eager is nan% off"):
        check_agreement(runs, case)


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    done = CliRunner().invoke(main, ["--quick", "--batch", "4", "--json", str(file)])
    assert done.exit_code == 0, done.output
    head, *lines = done.output.splitlines()
    assert head.split()[:3] == ["network", "precision", "part"]
    assert [line.split()[:3] for line in lines] == [["digits", "fp32", part] for part in PARTS]
    written = json.loads(file.read_text())
    assert written["clock"] == "wall"
    assert {"cpu", "threads", "torch"} <= written["machine"].keys()
    for case in written["cases"]:
        assert case["batch"] == 4 and case["commit"]
        assert case["seconds"].keys() == {"ours eager", "eager NCHW", "eager channels_last"}
        assert all(s["median"] > 0 and len(s["rounds"]) == 2 for s in case["seconds"].values())
        peers = [s["rounds"] for n, s in case["seconds"].items() if not n.startswith("ours")]
        ours = case["seconds"]["ours eager"]["rounds"]
        assert case["ratio"] in [
            pytest.approx(sum(b / a for a, b in zip(ours, peer, strict=True)) / 2) for peer in peers
        ]


def test_the_page_says_what_was_measured() -> None:
    document = json.loads(RESULTS.read_text("utf-8"))
    assert page(document) in PAGE.read_text("utf-8"), "python -m benchmarks.cpu --update"
    for case in document["cases"]:
        times = {n: Times(tuple(s["rounds"])) for n, s in case["seconds"].items()}
        assert (case["ours"], case["peer"]) == (best(times, True), best(times, False))
        assert case["ratio"] == ratio(times)


def test_cases_measured_anew_take_the_place_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads(RESULTS.read_text("utf-8"))
    file, text = tmp_path / "results" / "cpu.json", tmp_path / "performance.md"
    text.write_text("Before.\n<!-- cpu -->\n<!-- /cpu -->\nBehind.\n")
    monkeypatch.setattr("benchmarks.cpu.page.RESULTS", file)
    monkeypatch.setattr("benchmarks.cpu.page.PAGE", text)
    update(whole)
    assert json.loads(file.read_text()) == whole
    first, *others = whole["cases"]
    changed = {**first, "ratio": 3.0}
    update({**whole, "cases": [changed]})
    made = json.loads(file.read_text())
    assert made["cases"] == [changed, *others]
    assert text.read_text() == f"Before.\n{page(made)}Behind.\n"
    update({**whole, "clock": "processor", "cases": [changed]})
    assert json.loads(file.read_text())["cases"] == [changed]
