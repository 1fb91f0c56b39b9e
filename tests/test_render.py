"""Diagnostics as text, JSON and SARIF, from hand-made diagnostics."""

import io
import json
from textwrap import dedent

import pytest

from convdsl.diagnostics import Diagnostic, Frame, Label
from convdsl.report.findings import to_json, to_sarif
from convdsl.report.render import PLAIN, render, render_all, summary
from convdsl.report.terminal import Style
from convdsl.source import Source, Span


def span(source: Source, text: str, length: int | None = None) -> Span:
    start = source.text.index(text)
    return Span(source, start, start + (len(text) if length is None else length))


def one(text: str, *marks: tuple[str, str], style: Style = PLAIN) -> str:
    source = Source("a.cnn", text)
    labels = tuple(Label(span(source, where), words) for where, words in marks)
    return render(Diagnostic("E200", "it is wrong", labels), style)


RESNET = Source(
    "resnet.cnn",
    "input 3@56x56\n\n\n"
    "block bottleneck(w, s=1) = ADD{ cbr(w, 3, s) - CONV(4*w, 1) | ID } - RELU\n"
    "net R = GAP\n  - [bottleneck(w)]*4\n",
)
BRANCHES = Diagnostic(
    "E210",
    "ADD branches disagree: 28x28x512 and 56x56x256",
    (
        Label(span(RESNET, "s) -", 1), "s=2 halves H, W"),
        Label(span(RESNET, "ID"), "passes on 56x56x256"),
    ),
    (
        Frame("repetition 2 of 4", span(RESNET, "[bottleneck(w)]*4"), (2, 4)),
        Frame("bottleneck(w=128, s=2)", span(RESNET, "bottleneck(w)]", 13)),
    ),
    "project the shortcut: | CONV(4*w, 1, S=s) - BN",
)
WARNING = Diagnostic("W304", "the let N is never used")


def test_the_example_of_the_language_description() -> None:
    assert render(BRANCHES) == dedent(
        """\
        error[E210]: ADD branches disagree: 28x28x512 and 56x56x256
         --> resnet.cnn:4:43
         4 | block bottleneck(w, s=1) = ADD{ cbr(w, 3, s) - CONV(4*w, 1) | ID } - RELU
           |                                           ^ s=2 halves H, W   ^^ passes on 56x56x256
         = in bottleneck(w=128, s=2), called at 6:6, repetition 2 of 4
         = help: project the shortcut: | CONV(4*w, 1, S=s) - BN"""
    )


def test_a_repetition_outside_of_any_call_gets_its_own_line() -> None:
    source = Source("a.cnn", "net a = [CONV]*3")
    frame = Frame("repetition 1 of 3", span(source, "[CONV]*3"), (1, 3))
    text = render(Diagnostic("E202", "K is missing", (Label(span(source, "CONV")),), (frame,)))
    assert text.splitlines()[-1] == " = in repetition 1 of 3 of the group at 1:9"


def test_nested_calls_go_from_the_inside_out_and_long_stacks_are_cut() -> None:
    source = Source("a.cnn", "x")
    frames = tuple(Frame(f"block{i}()", Span(source, 0, 1)) for i in range(30))
    lines = render(Diagnostic("E209", "recursion", (), frames)).splitlines()
    assert lines[1] == " = in block29(), called at a.cnn:1:1"
    assert lines[5] == " = ... 22 more calls ..."
    assert lines[-1] == " = in block0(), called at a.cnn:1:1"
    assert len(lines) == 10


def test_labels_that_do_not_fit_beside_their_carets_go_below() -> None:
    assert one("aa - bb - cc", ("aa", "first of all"), ("bb", "second"), ("cc", "third")) == dedent(
        """\
        error[E200]: it is wrong
         --> a.cnn:1:1
         1 | aa - bb - cc
           | ^^   ^^   ^^ third
           | |    second
           | first of all"""
    )


def test_labels_on_several_lines_and_in_several_files() -> None:
    main, other = Source("a.cnn", "one\ntwo\nthree\nfour"), Source("b.cnn", "\n" * 9 + "ten")
    labels = (
        Label(span(main, "four"), "here"),
        Label(span(main, "one"), "there"),
        Label(span(other, "ten"), "elsewhere"),
    )
    assert render(Diagnostic("E207", "defined twice", labels)) == dedent(
        """\
        error[E207]: defined twice
          --> a.cnn:4:1
          1 | one
            | ^^^ there
         ...
          4 | four
            | ^^^^ here
          ::: b.cnn:10:1
         10 | ten
            | ^^^ elsewhere"""
    )


def test_a_span_over_lines_shows_the_first_and_names_the_last() -> None:
    source = Source("a.cnn", "net a = [\n  CONV\n")
    text = render(Diagnostic("E102", "never closed", (Label(Span(source, 8, 16), "opened"),)))
    assert text.endswith(" 1 | net a = [\n   |         ^ opened (to line 2)")


def test_the_end_of_the_text_can_be_pointed_at() -> None:
    source = Source("a.cnn", "RELU -\n")
    text = render(Diagnostic("E100", "ends too soon", (Label(Span(source, 7, 7), "here"),)))
    assert text.endswith(" --> a.cnn:2:1\n 2 |\n   | ^ here")


def test_carets_stand_right_under_tabs_controls_and_wide_characters() -> None:
    lines = one("\tx\x1b[31m漢字 bad", ("bad", "")).splitlines()
    assert lines[2] == " 1 |     x\\x1b[31m漢字 bad"
    # two cells for each of the two wide characters: 4 + 1 + 4 + 4 + 4 + 1
    assert lines[3] == "   | " + " " * 18 + "^^^"


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_long_lines_are_trimmed_around_every_label(width: int) -> None:
    text = "x-" * 300 + "BAD" + "-y" * 2000 + "WORSE" + "-z" * 900
    lines = one(text, ("BAD", "bad"), ("WORSE", "worse"), style=Style(width=width)).splitlines()
    assert "BAD" in lines[2] and "WORSE" in lines[2] and "..." in lines[2]
    assert len(lines[2]) <= max(width, 60)
    for word in ("BAD", "WORSE"):
        at = lines[2].index(word)
        assert lines[3][at : at + len(word)] == "^" * len(word)


def test_colour_is_only_added_never_needed() -> None:
    colored = render(BRANCHES, Style(color=True))
    assert "\x1b[31;1merror[E210]\x1b[0m" in colored
    for code in ("0", "1", "2", "31", "34", "31;1", "32;1"):
        colored = colored.replace(f"\x1b[{code}m", "")
    assert colored == render(BRANCHES)


def test_ascii_streams_get_ascii() -> None:
    text = one("net é = 漢 bad", ("bad", "schön"), style=Style(unicode=False))
    assert text.isascii()
    assert "net \\xe9 = \\u6f22 bad" in text
    assert text.splitlines()[3].index("^") == text.splitlines()[2].index("bad")


@pytest.mark.parametrize(
    ("encoding", "unicode"), [("utf-8", True), ("ascii", False), ("latin-1", False), ("bad", False)]
)
def test_style_follows_the_stream(encoding: str, unicode: bool) -> None:
    class Stream(io.StringIO):
        @property
        def encoding(self) -> str:
            return encoding_of

        def isatty(self) -> bool:
            return True

    encoding_of = encoding
    assert Style.of(Stream()).unicode is unicode


def test_no_color_and_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Style.of(Terminal()).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).color
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Style.of(Terminal()).color
    assert not Style.of(io.StringIO()).color


def test_summary_counts() -> None:
    assert summary([BRANCHES, BRANCHES, WARNING]) == "2 errors, 1 warning"
    assert summary([WARNING]) == "1 warning"
    assert render_all([]) == ""
    assert render_all([WARNING]) == "warning[W304]: the let N is never used\n\n1 warning\n"


def test_of_very_many_the_first_are_shown_errors_before_warnings() -> None:
    text = render_all([WARNING] * 60 + [BRANCHES])
    assert text.startswith("error[E210]")
    assert text.count("warning[") == 49
    assert text.endswith("\n\n... and 11 findings more\n\n1 error, 60 warnings\n")


def test_json_has_every_field() -> None:
    document = json.loads(to_json([BRANCHES, WARNING]))
    assert (document["version"], document["errors"], document["warnings"]) == (1, 1, 1)
    first, second = document["diagnostics"]
    assert first["place"] == {
        "file": "resnet.cnn",
        "line": 4,
        "column": 43,
        "end_line": 4,
        "end_column": 44,
    }
    assert [label["text"] for label in first["labels"]] == [
        "s=2 halves H, W",
        "passes on 56x56x256",
    ]
    assert first["frames"][0]["text"] == "repetition 2 of 4"
    assert first["help"] and first["severity"] == "error"
    assert second["place"] is None and second["severity"] == "warning"


def test_sarif_names_rules_places_and_levels() -> None:
    document = json.loads(to_sarif([BRANCHES, WARNING], "1.2.3"))
    (run,) = document["runs"]
    assert document["version"] == "2.1.0"
    assert run["tool"]["driver"]["version"] == "1.2.3"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["E210", "W304"]
    first, second = run["results"]
    assert rules[first["ruleIndex"]] == "E210" and first["level"] == "error"
    physical = first["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"]["uri"] == "resnet.cnn"
    assert physical["region"]["startColumn"] == 43
    assert len(first["relatedLocations"]) == 3
    assert second["locations"] == [] and second["level"] == "warning"
