"""The models of PyTorch's traffic follow their rules, and the table in docs/ is what they give."""

import json
from pathlib import Path

import pytest

import convdsl
from benchmarks.frameworks import Bytes, Step, eager, inductor
from benchmarks.traffic import BATCHES, PAGE, document, main, measure, page
from convdsl.compiler import compile_text

N = 4  # samples; elements of 2 bytes
#: of one map 8@6x6 and of the input 3@6x6
Y, X = N * 8 * 36 * 2, N * 3 * 36 * 2


def models(text: str, shape: str = "3@6x6") -> tuple[Bytes, Bytes]:
    """By eager and by inductor."""
    network = compile_text(f"input {shape}\nnet Example = {text}\n")
    step = Step.of(network, N, compute=2)
    return eager(step), inductor(step)


def test_a_convolution_with_bias_and_relu() -> None:
    """Eager adds the bias by itself; inductor with the ReLU."""
    w = dw = 8 * 27 * 2
    b, db = 8 * 2, 8 * 4
    plain, compiled = models("CONV(8) - RELU")
    assert plain.forward == (X + w + b + Y) + 2 * Y + 2 * Y
    assert compiled.forward == (X + w + b + Y) + 2 * Y
    # dx of the image is nobody's; the bias's gradient is a pass of its own in eager only
    assert plain.backward == 3 * Y + (X + Y + dw + db) + Y
    assert compiled.backward == 3 * Y + (X + Y + dw + db)
    assert plain.optimizer == compiled.optimizer == 24 * (8 * 27 + 8)


def near(ours: int, theirs: int) -> bool:
    """Numbers per channel aside, which are less than half a pass over a map."""
    return 0 <= ours - theirs < Y / 2


def test_batch_normalisation_is_three_passes_forward_and_five_back() -> None:
    w = 8 * 27 * 2
    plain, compiled = models("CONV(8, bias=false) - BN - RELU")
    assert near(plain.forward, (X + w + Y) + 3 * Y + 2 * Y)
    assert near(compiled.forward, (X + w + Y) + 3 * Y)
    assert near(plain.backward, 3 * Y + 5 * Y + (X + Y + w))
    # both passes of the gradient mask dy by the ReLU's output again
    assert near(compiled.backward, 7 * Y + (X + Y + w))


def test_winners_of_a_pooling_are_eight_bytes_or_one() -> None:
    plain, compiled = models("CONV(8, bias=false) - POOL")
    pooled, winners = Y // 4, N * 8 * 9
    assert plain.forward - compiled.forward == 7 * winners
    assert plain.backward - compiled.backward == 7 * winners
    w = 8 * 27 * 2
    assert plain.forward == (X + w + Y) + (Y + pooled + 8 * winners)


def test_a_mask_of_dropout_is_stored_by_eager_alone() -> None:
    with_it, without = (models(f"CONV(8, bias=false){layer}") for layer in (" - DROPOUT", ""))
    elements = N * 8 * 36
    assert with_it[0].forward - without[0].forward == 2 * Y + elements
    assert with_it[0].backward - without[0].backward == 2 * Y + elements
    assert with_it[1].forward - without[1].forward == 2 * Y


def test_a_concatenation_is_a_copy_and_its_gradient_a_view() -> None:
    text = "CONCAT{{ CONV(4, bias=false){0} | CONV(4, bias=false){0} }}"
    plain, compiled = models(text.format(""))
    w = 4 * 27 * 2
    parts = 2 * (X + w) + Y
    assert plain.forward == compiled.forward == parts + 2 * Y
    assert plain.backward == 2 * (X + w) + Y
    # pointwise parts are stored where they belong
    plain, compiled = models(text.format(" - RELU"))
    assert plain.forward == parts + 2 * Y + 2 * Y
    assert compiled.forward == parts + 2 * Y


@pytest.mark.parametrize(
    ("name", "of_eager", "of_inductor"),
    [
        # convolutions 10.7 + 21.4 GB, BN, ReLU and sums 35.4 + 51.8, pooling, head and SGD 2.6
        ("resnet50", 121.9, 96.2),
        # convolutions 33.2, biases and ReLU 55.5 = 8 passes, pooling 14.1, SGD 3.3, FC 1.0
        ("vgg16", 107.1, 80.6),
    ],
)
def test_large_networks_are_near_sums_worked_out_by_hand(
    name: str, of_eager: float, of_inductor: float
) -> None:
    step = Step.of(convdsl.compile(f"networks/{name}.cnn"), 256, compute=2)
    assert eager(step).total / 1e9 == pytest.approx(of_eager, rel=0.02)
    assert inductor(step).total / 1e9 == pytest.approx(of_inductor, rel=0.03)


def test_the_table_of_the_page_is_what_is_counted() -> None:
    rows = {name: measure(name) for name in BATCHES}
    assert page(rows) in PAGE.read_text("utf-8"), "python -m benchmarks.traffic --update"
    written = json.loads(document(rows))
    assert written["dtype"] == "bf16"
    for name, row in rows.items():
        ours = written["networks"][name]["ours"]
        assert ours["total"] == row.ours.total == sum(ours.values()) - ours["total"]


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bytes.json"
    main(["lenet5", "--json", str(path)])
    assert "lenet5" in capsys.readouterr().out
    assert list(json.loads(path.read_text())["networks"]) == ["lenet5"]
    with pytest.raises(SystemExit):
        main(["lenet6"])
    assert "no batch is set for lenet6" in capsys.readouterr().err
