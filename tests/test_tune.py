"""What a device was best at: tiles, fusions and library calls, searched, kept and used."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import convdsl
from convdsl.cli.commands import commands
from convdsl.compiler import Network, compile_text
from convdsl.ir.choices import Choices, group_of, key_of, product_of, tile_of
from convdsl.ir.tile import Tile
from convdsl.ops._library import convolutions
from convdsl.runtime import tuned as table
from convdsl.runtime.load import load_text
from convdsl.tuning.candidates import Machine, candidates
from convdsl.tuning.check import Operands, is_near, is_right
from convdsl.tuning.search import Built, Part, chains, differing, search
from tests.test_prologues import of_training

PROGRAM = """
input 8@7x5
net Some = ADD{ CONV(16, bias=false) - BN - RELU - CONV(8, F=1, bias=false) - BN | ID } - RELU
    - CONV(24, F=1, bias=false) - BN - RELU - CONCAT{ CONV(8, S=2) | CONV(16, F=1, S=2) } - RELU
    - GAP - FC(5)
"""
MACHINE = Machine(processors=132, shared=228 * 1024, shared_limit=227 * 1024)
SUBJECT = table.Subject("NVIDIA H200", "bf16", "3.7.1", "2.13.0", "0.1.0")


def some() -> Network:
    return compile_text(PROGRAM)


def keys(network: Network) -> list[str]:
    return [key for node in network.fused.all_nodes if (key := key_of(node))]


def odd_tiles(network: Network) -> Choices:
    """Another tile for every product, a small one."""
    tiles = {}
    for node in network.fused.all_nodes:
        if key := key_of(node):
            launch = product_of(node)
            assert launch is not None
            static = tile_of(launch)
            tiles[key] = Tile(16, 16, 16, 4, 2, 2 if static.splits else 0)
            assert tiles[key] != static
    return Choices(tiles)


def library(network: Network) -> Choices:
    nodes = (group_of(node).anchor for node in network.fused.all_nodes)
    return Choices(library=frozenset(key for node in nodes if (key := key_of(node))))


def apart(network: Network) -> Choices:
    return Choices(apart=frozenset(chains(network)))


@dataclass
class Bench:
    """A device that says what it is told to; remembers what it was to time."""

    time: Callable[[str, Part], float]
    wrong: Callable[[Part], bool] = lambda part: False
    spilling: Callable[[Part], bool] = lambda part: False
    machine: Machine = MACHINE
    batch: int = 64
    size: int = 2
    timed: list[Part] = field(default_factory=list)

    def build(self, parts: Sequence[Part]) -> list[Built | None]:
        return [Built(64, 8 if self.spilling(part) else 0, 1024) for part in parts]

    def is_right(self, part: Part) -> bool:
        return not self.wrong(part)

    def seconds(self, runs: Mapping[str, Part]) -> dict[str, float]:
        self.timed += runs.values()
        return {name: self.time(name, part) for name, part in runs.items()}


def rows(part: Part) -> int:
    """Of the tile of the part's first product."""
    launch = product_of(part.nodes[0])
    assert launch is not None
    return tile_of(launch).m


# ---- choices change the code and not what it means


@pytest.mark.parametrize("choices", [odd_tiles, library, apart])
def test_any_choice_gives_the_same_training(choices: Callable[[Network], Choices]) -> None:
    network = some()
    chosen = network.chosen(choices(network))
    assert chosen.triton.text != network.triton.text
    ours, expected = (
        of_training(net, target, (8, 7, 5), 3)
        for net, target in ((chosen, "triton"), (network, "torch"))
    )
    for one, other in zip(ours, expected, strict=True):
        scale = float(other.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-5)


def test_a_tile_is_what_the_launch_gets() -> None:
    network = some()
    text = network.chosen(odd_tiles(network)).triton.text
    assert "BLOCK_M=16, BLOCK_N=16" in text and "BLOCK_M=64" not in text.split("def infer")[0]


def test_the_library_takes_no_epilogue_and_is_counted() -> None:
    network = some()
    theirs = network.chosen(library(network))
    assert convolutions(network.fused) == (15, 15)
    assert convolutions(theirs.fused) == (0, 15)
    assert theirs.triton.text.count("convolution_backward(") == 10
    assert "torch.convolution(" not in network.triton.text
    moved = {m.kernel for m in theirs.traffic(4).moves}
    assert {"library_conv", "library_conv_grad_input", "library_conv_grad_weight"} <= moved
    assert theirs.traffic(4).total > network.traffic(4).total


def test_choices_are_left_out_with_their_pass() -> None:
    network = some()
    given = network.chosen(odd_tiles(network) | library(network) | apart(network))
    passes = ("choose_tiles", "use_library")
    assert not convolutions(replace(given, without=passes).fused)[0] < 15
    assert "BLOCK_M=16, BLOCK_N=16, BLOCK_K=16" not in replace(given, without=passes).triton.text


def test_equal_layers_have_one_key_and_others_their_own() -> None:
    network = compile_text("input 8@6x6 net N = CONV(8) - RELU - CONV(8) - RELU - CONV(8) - TANH")
    forward = [key for key in keys(network) if key.startswith("conv_forward")]
    assert forward[0] == forward[1] != forward[2]
    assert "rows=n*36" in forward[0] and "* relu" in forward[0]


# ---- candidates


def test_what_poolings_and_depthwise_convolutions_work_out_are_questions_of_their_own() -> None:
    network = convdsl.compile_text(
        "input 8@32x32 net = CONV - BN - RELU - POOL(3, S=2, P=1) - CONV - BN - RELU - DWCONV - BN"
        " - RELU - POOL(3, S=2, P=1)",
        defaults=["CONV(8, bias=false)", "DWCONV(bias=false)"],
    )
    first, second, third = chains(network)
    assert "max_pool" in first and "depthwise_forward" in second and "max_pool" in third
    assert first != third


def test_candidates_fit_and_are_no_wider_than_the_product() -> None:
    for node in some().fused.all_nodes:
        launch = product_of(node)
        if launch is None:
            continue
        assert launch.product is not None
        tiles = candidates(launch, MACHINE, 64, 2)
        assert len(tiles) == len(set(tiles)) > 4
        for tile in tiles:
            assert (tile.m + tile.n) * tile.k * 2 * (tile.stages - 1) <= MACHINE.shared_limit
            _, columns, _ = launch.product.sizes(64)
            assert tile.n < 2 * max(columns, 16)
            assert bool(tile.splits) == ("SPLIT" in launch.arguments)


def test_large_products_get_large_tiles_first() -> None:
    network = compile_text("input 256@56x56 net N = CONV(256)")
    first = {}
    for n in (1, 256):
        launch = product_of(network.fused.nodes[0])
        assert launch is not None
        first[n] = candidates(launch, MACHINE, n, 2)[0]
    assert first[1].m * first[1].n < first[256].m * first[256].n
    assert first[256].m * first[256].n >= 128 * 128


# ---- the search


def test_the_fastest_tile_wins() -> None:
    network = some()
    times = {"static": 3.0, "now": 1.0, "then": 1.0}
    bench = Bench(lambda name, part: times.get(name) or 1.0 + 1 / rows(part))
    tuned = search(network, bench)
    assert set(keys(network)) <= tuned.choices.tiles.keys()
    for found in tuned.found:
        if " for " not in found.key:
            assert found.best != found.static and found.seconds < found.static_seconds == 3.0
    assert "answered otherwise" in tuned.summary(network)


@pytest.mark.parametrize(
    ("program", "nest"),
    [
        ("input 16@4x4 net N = CONV(64) - RELU", "conv_swapped"),
        ("input 16@4x4 net N = CONV(64, F=1) - RELU", "rows_persistent"),
        ("input 3@4x4 net N = CONV(64) - RELU", "conv_stem"),
    ],
)
def test_another_loop_nest_may_win(program: str, nest: str, tmp_path: Path) -> None:
    network = compile_text(program)
    variants = "swapped", "persistent", "stem"
    bench = Bench(lambda name, part: 0.5 if name.endswith(variants) else 1.0)
    tuned = search(network, bench)
    assert any(f"{nest}[" in part.piece.text for part in bench.timed)
    table.write(tmp_path / "table.json", SUBJECT, tuned.choices)
    choices = table.read(tmp_path / "table.json", SUBJECT)
    assert choices == tuned.choices
    assert f"{nest}[" in network.chosen(choices).triton.text
    # a second tuning knows them all
    again = search(network.chosen(choices), Bench(lambda name, part: 1.0))
    assert again.choices == choices
    assert all(" for " in found.key for found in again.found)


def test_noise_changes_nothing() -> None:
    tuned = search(some(), Bench(lambda name, part: 1.0 if name in ("static", "now") else 0.99))
    assert all(found.best == found.static for found in tuned.found)
    assert not tuned.choices.apart and not tuned.choices.library


def test_what_is_wrong_or_spills_never_runs_and_never_wins() -> None:
    for spoilt in ("wrong", "spilling"):
        bench = Bench(
            lambda name, part: 2.0 if name in ("static", "now") else 1.0,
            **{spoilt: lambda part: rows(part) > 16 if product_of(part.nodes[0]) else False},
        )
        tuned = search(some(), bench)
        tiles = [f for f in tuned.found if " for " not in f.key]
        assert any(f.best != f.static for f in tiles)
        assert all(f.best == f.static or f.best.startswith("16x") for f in tiles)


def test_what_does_not_compile_is_passed_over() -> None:
    bench = Bench(lambda name, part: 1.0)
    bench.build = lambda parts: [None] * len(parts)  # type: ignore[method-assign]
    assert all(found.best == found.static for found in search(some(), bench).found)


def test_fusing_is_timed_forward_and_backward_together() -> None:
    network = some()
    bench = Bench(lambda name, part: 0.5 if name == "then" else 1.0)
    tuned = search(network, bench, library=True)
    assert tuned.choices.apart and tuned.choices.library
    # a chain between two convolutions: its own kernel, and those of both directions that read it
    pairs = [p for p in bench.timed if len(p.nodes) > 2]
    titles = [[node.op.title for node in part.nodes] for part in pairs]
    assert any(
        any("grad" in t for t in part) and any("grad" not in t for t in part) for part in titles
    )
    fused = network.chosen(tuned.choices).fused
    assert convolutions(fused)[0] == 0
    assert not any(group_of(node).prologues for node in fused.all_nodes)


def test_without_being_asked_no_library_is_tried() -> None:
    bench = Bench(lambda name, part: 0.5 if name == "then" else 1.0)
    assert not search(some(), bench).choices.library


def test_what_is_known_is_not_measured_again() -> None:
    network = some()
    first = search(network, Bench(lambda name, part: 1.0))
    again = Bench(lambda name, part: 1.0)
    search(network.chosen(first.choices), again)
    assert not [part for part in again.timed if len(part.nodes) == 1 and product_of(part.nodes[0])]


def test_both_sides_of_a_question_make_the_same() -> None:
    network = some()
    split = network.chosen(apart(network))
    for node in network.fused.all_nodes:
        for chain in group_of(node).prologues:
            one, other = differing(network.fused, split.fused, chain[-1].output)
            assert one and len(other) > len(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pieces_make_what_their_nodes_mean(dtype: torch.dtype) -> None:
    network = compile_text(PROGRAM.replace("- FC(5)", "- FC(16) - RELU - DROPOUT(0.5) - FC(5)"))
    graph = network.fused
    checked = 0
    for node in graph.all_nodes:
        part = Part.of(graph, [node])
        if part.piece.made:
            run = load_text(part.piece.text, "piece").run
            operands = Operands(graph, 3, dtype, "cpu")
            assert is_right(graph, [node], part.piece, run, operands), node.op.title
            checked += 1
    assert checked > 25


def test_a_wrong_piece_is_seen() -> None:
    graph = compile_text("input 3@5x4 net N = CONV(4) - RELU").fused
    part = Part.of(graph, graph.nodes[:1])
    text = part.piece.text.replace("PAD_H=1", "PAD_H=0")
    assert text != part.piece.text
    run = load_text(text, "piece").run
    assert not is_right(
        graph, part.nodes, part.piece, run, Operands(graph, 3, torch.float32, "cpu")
    )


def test_near() -> None:
    exact = torch.tensor([1.0, float("nan")], dtype=torch.float64)
    assert not is_near(exact, exact, torch.float32)
    assert is_near(exact[:1] + 1e-6, exact[:1], torch.float32)
    assert not is_near(exact[:1] + 1e-3, exact[:1], torch.float32)
    assert not is_near(exact, exact[:1], torch.float32)


# ---- the table


def full() -> Choices:
    return Choices({"a b=1": Tile(64, 32, 16, 4, 3, 8)}, frozenset({"x for y"}), frozenset({"z"}))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / SUBJECT.file_name
    table.write(path, SUBJECT, full())
    assert table.read(path, SUBJECT) == full()
    assert path.name == "nvidia-h200-bf16-triton3.7.1-torch2.13.0-convdsl0.1.0.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(form=2),
        lambda d: d["subject"].update(triton="3.6.0"),
        lambda d: d["subject"].update(device="another"),
        lambda d: d.update(tiles=[1]),
        lambda d: d.pop("apart"),
        lambda d: d["tiles"].update(k={"m": 64}),
        lambda d: d["tiles"]["a b=1"].update(m="64); import os"),
        lambda d: d["tiles"]["a b=1"].update(m=48),
        lambda d: d["tiles"]["a b=1"].update(warps=0),
        lambda d: d["tiles"]["a b=1"].update(k=1 << 40),
        lambda d: d["tiles"]["a b=1"].update(variant="another"),
        lambda d: d["tiles"]["a b=1"].update(variant=["swapped"]),
    ],
)
def test_a_table_of_something_else_is_none(spoil: Callable[[Any], object], tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.write(path, SUBJECT, full())
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    assert table.read(path, SUBJECT) == Choices()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"tiles"', '{"form": 1}', "\x00"])
def test_a_torn_table_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    assert table.read(path, SUBJECT) == Choices()
    assert table.read(tmp_path / "missing.json", SUBJECT) == Choices()


def test_ours_alone_or_whoever_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "own_folder", lambda: tmp_path)
    table.write(tmp_path / SUBJECT.file_name, SUBJECT, full())
    assert table.choices_for(SUBJECT, library=True) == full()
    assert table.choices_for(SUBJECT) == replace(full(), library=frozenset())


# ---- without a device


def test_tuning_without_a_device_is_refused_in_words(tmp_path: Path) -> None:
    assert not torch.cuda.is_available()
    with pytest.raises(ValueError, match="CUDA or ROCm device, and there is none"):
        convdsl.tune(some(), batch=8)
    path = tmp_path / "some.cnn"
    path.write_text(PROGRAM)
    done = CliRunner().invoke(commands, ["tune", str(path), "--batch", "8"], standalone_mode=False)
    assert done.return_value.code == 2 and "there is none" in done.return_value.stderr


def test_wrong_use_is_told_before_anything_is_measured() -> None:
    for wrong, words in (
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 1, "kernels": "all"}, "kernels must be 'triton' or 'auto', got 'all'"),
        ({"batch": 1, "dtype": torch.int8}, "dtype must be one of"),
    ):
        with pytest.raises(ValueError, match=words):
            convdsl.tune(some(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kernels must be 'triton' or 'auto'"):
        some().module(device="cpu", kernels="cudnn")
