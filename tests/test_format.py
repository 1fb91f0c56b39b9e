"""syntax/format*.py: one style, comments kept, the tree untouched, twice the same as once."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convdsl.diagnostics import CompileError
from convdsl.source import Source
from convdsl.syntax.dump import dump
from convdsl.syntax.format import format_source
from convdsl.syntax.parser import parse
from convdsl.syntax.reader import read_source
from convdsl.syntax.words import scan
from tests.strategies import programs

ROOT = Path(__file__).parent.parent


def parses(path: Path) -> bool:
    try:
        parse(read_source(path))
    except CompileError:
        return False
    return True


CORPUS = [
    path
    for folder in ("networks", "tests/errors", "tests/errors/imports")
    for path in sorted((ROOT / folder).glob("*.cnn"))
    if parses(path)
]


def fmt(text: str) -> str:
    return format_source(Source("t.cnn", text))


def tree(text: str) -> str:
    return dump(parse(Source("t.cnn", text)).statements)


def comments(text: str) -> list[str]:
    """All comments in order, found without the formatter's help."""
    quoted = re.sub(r'"[^"\n]*"|\'[^\'\n]*\'|(#[^\n]*)', lambda m: m[1] or " ", text)
    return [line.partition("#")[2].strip() for line in quoted.splitlines() if "#" in line]


def check(text: str) -> str:
    """The formatted text, which must be all that a formatter promises."""
    once = fmt(text)
    assert fmt(once) == once
    assert tree(once) == tree(text)
    assert comments(once) == comments(text)
    assert all(line == line.rstrip() for line in once.splitlines())
    assert once.endswith("\n") and not once.endswith("\n\n") and "\n\n\n" not in once
    return once


def longest(text: str) -> int:
    return max(len(line.partition("#")[0].rstrip()) for line in text.splitlines())


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) > 100


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_program_that_parses_keeps_its_tree_and_comments(path: Path) -> None:
    check(read_source(path).text)


@pytest.mark.parametrize("path", sorted(ROOT.glob("networks/*.cnn")), ids=lambda path: path.stem)
def test_the_networks_are_formatted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert fmt(text) == text


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(programs(items=6, depth=3))
def test_random_programs(text: str) -> None:
    once = check(text)
    assert longest(once) <= 100


SEPARATORS = [" ", " ", " ", "\n", "\n\n\n", "  # note\n", "\n# own line\n", "\t", "\r\n", " #\n"]


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(programs(items=4, depth=3), st.data())
def test_random_programs_with_any_breaks_and_comments(text: str, data: st.DataObject) -> None:
    """Breaks, blanks and comments between any two words, wherever they are allowed."""
    words = [word.text for word in scan(Source("t.cnn", text))[:-1]]
    marks = data.draw(st.lists(st.sampled_from(SEPARATORS), min_size=1, max_size=60))
    spread = "".join(word + marks[i % len(marks)] for i, word in enumerate(words))
    assert tree(spread) == tree(text)
    check(spread)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(programs(items=6, depth=3), st.integers(1, 40))
def test_long_names_and_many_words_on_a_line(text: str, times: int) -> None:
    """Everything on as few lines as possible, and too long for them."""
    long = re.sub(r"\b(t\d|block\d|module\d|k|m|width)\b", lambda m: m[1] + "x" * times, text)
    check(" ".join(long.split()))


def test_a_net_on_one_line_stays_on_it() -> None:
    assert fmt("net  a=CONV( 8 ,F = 5)-  RELU,SOFTMAX( weight=0.5 )") == (
        "net a = CONV(8, F=5) - RELU, SOFTMAX(weight=0.5)\n"
    )


def test_a_chain_without_net() -> None:
    assert fmt(" [(CONV-RELU)*2-POOL]*3-(FC-RELU)*2-FC , SOFTMAX") == (
        "[(CONV-RELU)*2-POOL]*3-(FC-RELU)*2-FC, SOFTMAX\n"
    )
    assert fmt("CONV(8)\n-RELU->POOL") == "CONV(8)\n- RELU - POOL\n"


def test_dashes_are_all_tight_or_all_spaced() -> None:
    assert fmt("net a = (CONV-RELU)*2 - [CONV -RELU]") == (
        "net a = (CONV-RELU)*2 - [CONV - RELU]\n"
    )


def test_lines_of_a_net_begin_with_the_dash() -> None:
    assert fmt("net a = CONV(8) -\nRELU - POOL -\n\nFC(10)\n, SOFTMAX") == (
        "net a =\n    CONV(8)\n  - RELU - POOL\n\n  - FC(10), SOFTMAX\n"
    )


def test_branches() -> None:
    assert fmt("net a = CONCAT{CONV(4)|ID} - RELU") == "net a = CONCAT{ CONV(4) | ID } - RELU\n"
    assert fmt("net a = CONCAT{\nCONV(4)-RELU|ID} - RELU") == (
        "net a = CONCAT{\n    CONV(4) - RELU\n  | ID\n} - RELU\n"
    )
    assert fmt("net a = RELU\n-ADD{\n[CONV(4)\n-RELU]*2|ID} :: 4@8x8-RELU\n::4@8x8") == (
        "net a =\n"
        "    RELU\n"
        "  - ADD{\n"
        "        [\n"
        "            CONV(4)\n"
        "          - RELU\n"
        "        ]*2\n"
        "      | ID\n"
        "    } :: 4@8x8 - RELU  :: 4@8x8\n"
    )


def test_notes_and_comments_stand_in_columns() -> None:
    text = (
        "net a = CONV(8) :: 8@9x9 #one\n - RELU - POOL # two\n- CONV(16, F=1)::16@4x4\n"
        " - FC(10)::10,SOFTMAX # three\n"
    )
    assert fmt(text) == (
        "net a =\n"
        "    CONV(8)        :: 8@9x9        #one\n"
        "  - RELU - POOL                    # two\n"
        "  - CONV(16, F=1)  :: 16@4x4\n"
        "  - FC(10)         :: 10, SOFTMAX  # three\n"
    )


def test_a_long_line_does_not_push_the_notes_of_the_others() -> None:
    long = " - ".join(["CONV(16, F=5)"] * 5)
    assert fmt(f"net a = CONV(8) :: 8@9x9\n- {long} :: 16@9x9\n- POOL :: 16@4x4") == (
        f"net a =\n    CONV(8)  :: 8@9x9\n  - {long}  :: 16@9x9\n  - POOL     :: 16@4x4\n"
    )


def test_comments_stay_where_they_are() -> None:
    text = """\
# the file
input 8x8x3  # a picture


let N = 2   # two
let wide = 16 # sixteen
net a =  # the net
    # first
    CONV(wide) - # joined
    RELU
    # second

  - ADD{ # branches
      ID
      # other
    | CONV(wide,
        # by hand
        F=1)
      # last
    }
# the end
"""
    assert (
        fmt(text)
        == """\
# the file
input 8x8x3  # a picture

let N = 2      # two
let wide = 16  # sixteen
net a =         # the net
    # first
    CONV(wide)  # joined
  - RELU
  # second

  - ADD{        # branches
        ID
      # other
      | CONV(wide,
            # by hand
            F=1)
        # last
    }
# the end
"""
    )
    check(text)


def test_expressions() -> None:
    text = "let N = - 3+4 *( a//2 ) ** 2 / -b  ==(not  x and @ . C>=1 or y , ( 1,2 ))"
    assert fmt(f"{text}\nnet a = RELU*( N+1 )?(N  >1) else  RELU*(k,n in 1 .. 3,(1,2))") == (
        "let N = -3 + 4*(a // 2)**2/-b == (not x and @.C >= 1 or y, (1, 2))\n"
        "net a = RELU*(N + 1)?(N > 1) else RELU*(k, n in 1 .. 3, (1, 2))\n"
    )


def test_statements() -> None:
    text = (
        "import 'a.cnn'( b ,c )input left:3 @8x8 default CONV( K = 8 )block f( ) = RELU"
        " module g(k , s = 1)=RELU() output o=@left  as t"
    )
    assert fmt(text) == (
        "import 'a.cnn' (b, c)\ninput left: 3@8x8\ndefault CONV(K=8)\nblock f = RELU\n"
        "module g(k, s=1) = RELU\noutput o = @left as t\n"
    )


def test_long_lines_break_where_they_can() -> None:
    layers = " - ".join(f"CONV({n}, F=5, P=half)" for n in range(1, 9))
    text = fmt(f"net a = {layers}, SOFTMAX")
    assert text.startswith("net a =\n    CONV(1") and longest(text) <= 100
    assert text.count("\n  - ") == 2
    branches = fmt(f"net a = CONCAT{{ {layers} | {layers} }}")
    assert branches.startswith("net a = CONCAT{\n    CONV(1") and longest(branches) <= 100
    numbers = ", ".join(f"({n}, {n + 1}, {n + 2})" for n in range(100, 120))
    loop = fmt(f"net a = [f(w, s)]*(w, s, n in {numbers}) - g({', '.join(map(str, range(60)))})")
    assert longest(loop) <= 100
    for each in (text, branches, loop):
        check(each)


def test_a_byte_order_mark_and_dos_line_ends_are_read() -> None:
    assert fmt("# a\r\nnet a =\r\n    RELU # b\r\n  - POOL\r\n") == (
        "# a\nnet a =\n    RELU  # b\n  - POOL\n"
    )


def test_errors_are_refused() -> None:
    with pytest.raises(CompileError) as raised:
        fmt("net a = CONV(8 - RELU\n")
    assert raised.value.diagnostics[0].code == "E102"
