"""Warnings: when they are given, and that common networks do not draw them."""

import pytest

from convdsl.ir.op import Window
from convdsl.ir.types import TensorType
from convdsl.lower import lower
from convdsl.lower.window import dropped
from convdsl.source import Source
from convdsl.syntax.parser import parse


def warnings(text: str) -> list[str]:
    """Codes and messages of what is warned of."""
    return [f"{d.code} {d.message}" for d in lower(parse(Source("net.cnn", text))).warnings]


def window(f: int, s: int, p: tuple[int, int] = (0, 0), d: int = 1, ceil: bool = False) -> Window:
    return Window((f, f), (s, s), (p, p), (d, d), ceil)


@pytest.mark.parametrize(
    ("size", "seen", "expected"),
    [
        (7, window(3, 1), None),
        (7, window(3, 2), None),
        (7, window(3, 3), "(7-3+0)/3+1 = 2.33: drops 1 column and 1 row"),
        (7, window(3, 3, ceil=True), None),
        (224, window(7, 2, (3, 3)), None),  # only padding is left out
        (9, window(3, 3, d=2), "(9-5+0)/3+1 = 2.33: drops 1 column and 1 row"),
        (8, window(3, 4, (1, 0)), "(8-3+1)/4+1 = 2.5: drops 2 columns and 2 rows"),
        (1000, window(1, 1000), None),  # no more than between any two windows
        (4, window(9, 2), None),
        (7, Window(everything=True), None),
    ],
)
def test_dropped_rows_and_columns(size: int, seen: Window, expected: str | None) -> None:
    assert dropped(seen, TensorType((3, size, size))) == expected


@pytest.mark.parametrize(
    ("size", "seen", "expected"),
    [
        (224, window(7, 2, (3, 3)), "(224-7+6)/2+1 = 112.5: drops 1 column and 1 row"),
        (1000, window(1, 1000), "(1000-1+0)/1000+1 = 1.99: drops 999 columns and 999 rows"),
        (7, window(3, 2), None),
    ],
)
def test_strict_speaks_of_every_fraction(size: int, seen: Window, expected: str | None) -> None:
    assert dropped(seen, TensorType((3, size, size)), strict=True) == expected


def test_axes_with_numbers_of_their_own() -> None:
    seen = Window((2, 3), (2, 2), ((0, 0), (0, 0)), (1, 1))
    assert dropped(seen, TensorType((1, 6, 7))) is None
    assert dropped(seen, TensorType((1, 7, 7))) == "(7-2+0)/2+1 = 3.5: drops 1 row"
    both = "(8-3+0)/2+1 = 3.5: drops 1 column; (7-2+0)/2+1 = 3.5: drops 1 row"
    assert dropped(seen, TensorType((1, 7, 8))) == both


@pytest.mark.parametrize("shape", ["3x32x32", "1x28x28", "3x224x224", "4x64x64"])
def test_channels_first_in_the_wrong_notation(shape: str) -> None:
    height, width, channels = shape.split("x")
    expected = [f"W302 read as H={height}, W={width}, C={channels}"]
    assert warnings(f"input {shape}\nnet a = CONV(4)") == expected


@pytest.mark.parametrize("shape", ["32x32x3", "1x1x1", "3x3x3", "3@32x32", "4x8x32", "1x28x3"])
def test_other_shapes_are_taken_as_they_are(shape: str) -> None:
    assert warnings(f"input {shape}\nnet a = CONV(4)") == []


@pytest.mark.parametrize(
    "net",
    [
        "CONV(4)-RELU*2",
        "CONV(4) - (CONV(4)-RELU*2)",
        "CONV(4) - ADD{ ID | CONV(4) - RELU*3 }",
        "CONV(4) - POOL(1) - DROPOUT*2",
    ],
)
def test_repeats_of_one_bare_layer(net: str) -> None:
    assert [text[:25] for text in warnings(f"input 8x8x3\nnet a = {net}")] == [
        "W303 this repeats only RE" if "RELU" in net else "W303 this repeats only DR"
    ]


@pytest.mark.parametrize(
    "net",
    ["(CONV(4)-RELU)*2", "RELU*2 - CONV(4)", "CONV(4) - CONV(4)*2", "RELU - POOL(1)*2 - RELU"],
)
def test_repeats_that_are_meant(net: str) -> None:
    assert warnings(f"input 8x8x3\nnet a = {net}") == []


def test_what_is_never_used() -> None:
    text = """
    let used = 3
    let unused = 4
    let of_default = 1
    default CONV(F=of_default)
    input 8x8x3
    block inner(k=used) = CONV(k)
    block outer = inner
    module never = outer
    net a = CONV(4) as names - RELU as nothing - POOL as read - FC(@read.C) - FC(2) as last
    """
    assert warnings(text) == [
        "W304 let `unused` is never used",
        "W304 module `never` is never used",
        "W304 tag `nothing` is never used",
    ]


def test_activations_on_the_scores() -> None:
    assert warnings("input 8\nnet a = FC(3) - RELU, SOFTMAX") == [
        "W305 RELU bends the scores that SOFTMAX works on"
    ]
    assert warnings("input 8\nnet a = FC(3) - RELU") == []
    assert warnings("input 8\nnet a = RELU - FC(3), SOFTMAX") == []


def test_one_layer_with_nearly_all_parameters() -> None:
    heavy = "input 64x64x3\nnet a = CONV(8) - FC(500) - FC(10)"
    assert [text[:14] for text in warnings(heavy)] == ["W306 FC(500) h"]
    assert warnings("input 8x8x3\nnet a = CONV(2) - FC(500) - FC(10)") == []  # 64,500: small
    assert warnings("input 64x64x3\nnet a = FC(500)") == []
