"""Lectures' listings: the same graphs as our programs, every volume checked at its place.

Graphs are compared as `--emit ir` prints them, names of values and parameters included, but for
the first line (the net's name) and the comments (texts and places of the source).
"""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark

import convdsl
from convdsl.compiler import Network, compile_source
from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.source import Source
from convdsl.syntax.dump import dump
from convdsl.syntax.format import format_source
from convdsl.syntax.grammar import grammar_path
from convdsl.syntax.listing import MAX_LINES, is_listing, parse_listing, program_text
from convdsl.syntax.parser import parse

NETWORKS = Path(__file__).parent.parent / "networks"
PAIRS = {"alexnet": "alexnet", "alphago": "alphago_policy"}
TEXTS = {name: (NETWORKS / "listings" / f"{name}.txt").read_text("utf-8") for name in PAIRS}
SHORT = "[8x8x3] INPUT\n[8x8x4] CONV1: 4 3x3 filters, pad 1\n[10] FC2: 10 neurons (class scores)\n"


def ir(network: Network) -> list[str]:
    lines = network.emit("ir").splitlines()[1:]
    return [re.sub(r"  # .* \S+:\d+$", "", line) for line in lines]


def compiled(text: str) -> Network:
    return compile_source(Source("listing.txt", text))


def wrong(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(CompileError) as raised:
        compiled(text)
    return raised.value.diagnostics


def test_no_conflicts() -> None:
    text = grammar_path("listing.lark").read_text("utf-8")
    for lexer in ("basic", "contextual"):
        Lark(text, parser="lalr", lexer=lexer, start=["line", "no_listing"], strict=True)


@pytest.mark.parametrize("name", PAIRS)
def test_the_graph_is_that_of_our_program(name: str) -> None:
    """The lectures' seed 000, slides 44 and 55."""
    ours = convdsl.compile(NETWORKS / f"{PAIRS[name]}.cnn")
    listed = convdsl.compile(NETWORKS / "listings" / f"{name}.txt")
    assert ir(listed) == ir(ours)
    assert listed.parameters_count == ours.parameters_count and listed.macs == ours.macs
    assert listed.warnings == ()


@pytest.mark.parametrize("name", PAIRS)
def test_the_program_written_from_it_is_formatted_and_says_the_same(name: str) -> None:
    source = Source(f"{name}.txt", TEXTS[name])
    text = format_source(Source("t.cnn", program_text(source)))
    assert format_source(Source("t.cnn", text)) == text
    assert dump(parse(Source("t.cnn", text)).statements) == dump(parse_listing(source).statements)
    assert ir(convdsl.compile_text(text)) == ir(compiled(TEXTS[name]))


@pytest.mark.parametrize("name", PAIRS)
def test_layers_keep_the_lines_they_are_printed_on(name: str) -> None:
    printed = TEXTS[name].splitlines()
    for node in compiled(TEXTS[name]).graph.nodes:
        span = node.origin.span
        assert span is not None
        labels = re.finditer(r"MAX POOL|CONV|NORM|FC|\(prob", printed[span.line - 1])
        assert span.column - 1 in [label.start() for label in labels]


VOLUMES = [
    (name, match.start(), match.group())
    for name, text in TEXTS.items()
    for match in re.finditer(r"\[[\dx]+\](?! input)", text, flags=re.IGNORECASE)
]


@pytest.mark.parametrize(("name", "start", "volume"), VOLUMES)
def test_every_printed_volume_is_checked(name: str, start: int, volume: str) -> None:
    number = re.search(r"\d+", volume)
    assert number is not None
    other = volume.replace(number[0], str(int(number[0]) + 1), 1)
    text = TEXTS[name][:start] + other + TEXTS[name][start + len(volume) :]
    (finding,) = wrong(text)
    span = finding.labels[0].span
    assert finding.code == "E211"
    assert (span.start, span.text) == (start, other)


def test_all_volumes_of_the_slides_are_there() -> None:
    assert [v for name, _, v in VOLUMES if name == "alexnet"] == [
        *("[55x55x96]", "[27x27x96]", "[27x27x96]", "[27x27x256]", "[13x13x256]", "[13x13x256]"),
        *("[13x13x384]", "[13x13x384]", "[13x13x256]", "[6x6x256]", "[4096]", "[4096]", "[1000]"),
    ]
    assert [v for name, _, v in VOLUMES if name == "alphago"] == [
        *("[19x19x192]", "[19x19x192]", "[19x19]"),
    ]


def test_the_shown_parameters_of_conv1() -> None:
    """The lectures' seed 000: (11*11*3)*96 = 35K."""
    weight, bias, *_ = compiled(TEXTS["alexnet"]).graph.parameters
    assert (weight.value.type.elements, bias.value.type.elements) == (11 * 11 * 3 * 96, 96)


def layers(text: str) -> list[str]:
    return [node.origin.text for node in compiled(text).graph.nodes]


def test_what_is_left_unsaid() -> None:
    assert layers(SHORT) == ["CONV(4, F=3, P=1)", "RELU", "FC(10)", "FC(10)"]  # the first flattens
    assert compiled(SHORT).graph.outputs[0].head is not None
    bare = SHORT.replace(", pad 1", "").replace(" (class scores)", "").replace("[8x8x4]", "[6x6x4]")
    assert layers(bare)[0] == "CONV(4, F=3, P=valid)"
    assert compiled(bare).graph.outputs[0].head is None
    hidden = SHORT.replace("[10]", "[9] FC1: 9 neurons\n[10]")
    assert layers(hidden)[-3:] == ["FC(9)", "RELU", "FC(10)"]
    dropped = layers(f"{hidden}- first use of ReLU\n- dropout 0.25\n- batch size 128\n")
    assert dropped[-4:] == ["FC(9)", "RELU", "DROPOUT(0.25)", "FC(10)"]


def test_a_range_is_that_many_layers() -> None:
    text = SHORT.replace("CONV1: 4 3x3", "CONV3..5: 4 3x3")
    assert layers(text).count("CONV(4, F=3, P=1)") == 3
    assert ir(compiled(text.replace("3..5", "3..3"))) == ir(compiled(SHORT))


def test_other_spellings() -> None:
    variants = [
        SHORT.replace("\n", "\r\n"),
        SHORT.lower(),
        f"  {SHORT}\n\n# a comment\n",
        SHORT.replace("(class scores)", "(class scores)  # the end"),
        SHORT.replace("[8x8x4] CONV1: 4 3x3", "[8 x 8 x 4] CONV1: 4 3×3"),
        SHORT.replace("[8x8x4] CONV1: 4 3x3 filters, pad 1", "CONV: 4 3x3 filters pad 1 ⇒ [8x8x4]"),
        SHORT.replace("filters, pad", "filters applied at stride 1 with pad"),
    ]
    expected = [line.replace("S=1", "") for line in ir(compiled(SHORT))]
    for variant in variants:
        assert is_listing(Source("t", variant))
        assert ir(compiled(variant)) == expected
    board = TEXTS["alphago"].replace("(prob", "(*prob").replace("moves)", "moves*)")
    assert ir(compiled(board)) == ir(compiled(TEXTS["alphago"]))


def test_pooling() -> None:
    text = "[9x8x2] INPUT\n[4x4x2] {}POOL1: 3x2 filters at stride 2\n"
    assert layers(text.format("MAX ")) == layers(text.format("")) == ["POOL(3x2, S=2)"]
    assert layers(text.format("AVERAGE ")) == ["AVGPOOL(3x2, S=2)"]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Full (simplified) AlexNet architecture:", "AlexNet"),
        ("policy network:", "policy"),
        ("# as printed\npolicy network:", "policy"),
        ("LeNet-5:", "LeNet5"),
        ("Network 5:", "net"),
        ("network:", "net"),
        ("# network of notes:", "net"),
        ("", "net"),
    ],
)
def test_the_title_names_the_net(title: str, name: str) -> None:
    assert compiled(f"{title}\n{SHORT}").graph.name == name


def test_comments_stay_in_the_program() -> None:
    listing = (
        "# my notes:\n[8x8x3] INPUT # small\n# stage one\n"
        "[8x8x4] CONV1: 4 3x3 filters, pad 1 # first\n# two\n"
        "[10] FC2: 10 neurons (class scores)\nDetails:\n- batch size 3\n"
    )
    text = format_source(Source("t.cnn", program_text(Source("t.txt", listing))))
    assert text == (
        "# my notes:\n# small\ninput 8x8x3\n# stage one\nnet =\n"
        "    CONV(4, F=3, P=1) - RELU  :: 8x8x4        # CONV1: first\n"
        "  # two\n"
        "  - FC(10)                    :: 10, SOFTMAX  # FC2\n"
        "# Details:\n# - batch size 3\n"
    )


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.cnn")), ids=lambda path: path.stem)
def test_programs_are_no_listings(path: Path) -> None:
    assert not is_listing(Source(path.name, path.read_text("utf-8")))


def test_groups_and_comments_are_no_listings() -> None:
    for text in ("[CONV(8)]*2", "[3x]", "# [55x55x96] CONV1", "[N]*2", "input [8x8x3] CONV"):
        assert not is_listing(Source("t", text))


def test_a_listing_too_long_is_refused() -> None:
    for text in (SHORT + "\n" * MAX_LINES, SHORT + "with " * 200_000, SHORT + "#" * 5_000):
        (finding,) = wrong(text)
        assert finding.code == "E304"


def test_numbers_too_long_are_refused() -> None:
    for number in ("9" * 19, "9" * 500):
        for text in (
            SHORT.replace("CONV1", f"CONV1..{number}"),
            SHORT.replace("10 n", f"{number} n"),
        ):
            assert [d.code for d in wrong(text)] == ["E117"]
        assert [d.code for d in wrong(SHORT.replace("[10]", f"[{number}]"))] == ["E111"]


WORDS = """\
[8x8x3] [8x8] [10] INPUT CONV1 CONV CONV2..4 MAX POOL1 NORM1 FC6 : 96 3x3 filters neurons at
stride 2 pad 1 , => Normalization layer (class scores) - dropout 0.5 architecture: # é $ (
"""
PIECES = [*WORDS.split(), "\n", "\n"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_any_row_of_words_is_read_or_explained(words: list[str]) -> None:
    text = "[8x8x3] INPUT\n" + " ".join(words)
    try:
        program = parse_listing(Source("t", text))
    except CompileError as error:
        for finding in error.diagnostics:
            assert finding.code.startswith("E") and finding.labels
            for label in finding.labels:
                assert 0 <= label.span.start <= label.span.end <= len(text)
    else:
        assert program.source.text == text
