"""Text -> AST: exact nodes and spans, one finding for each slip, limits, hygiene of the text."""

import time
from pathlib import Path

import pytest

from convdsl.diagnostics import CompileError, Diagnostic
from convdsl.errors import CATALOGUE
from convdsl.source import Source
from convdsl.syntax import ast
from convdsl.syntax.parser import (
    parse,
    parse_default,
    parse_expression,
    parse_shape,
    parse_value,
)
from convdsl.syntax.reader import MAX_BYTES, read_source

NETWORKS = sorted((Path(__file__).parent.parent / "networks").glob("*.cnn"))


def program(text: str) -> tuple[ast.Statement, ...]:
    return parse(Source("t.cnn", text)).statements


def chain(text: str) -> ast.Chain:
    (net,) = program(text)
    assert isinstance(net, ast.Net)
    return net.chain


def expression(text: str) -> ast.Expr:
    return parse_expression(Source("t.cnn", text))


def value(expr: ast.Expr) -> object:
    """An expression as nested tuples, for comparison."""
    match expr:
        case ast.Number(v) | ast.Text(v):
            return v
        case ast.Dims(values):
            return values
        case ast.Name(id):
            return id
        case ast.ShapeOf(tag, axis):
            return f"@{tag or ''}.{axis}"
        case ast.Tuple(items):
            return tuple(value(item) for item in items)
        case ast.Unary(operator, operand):
            return (operator, value(operand))
        case ast.Binary(operator, left, right):
            return (operator, value(left), value(right))


def findings(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(CompileError) as caught:
        program(text)
    for diagnostic in caught.value.diagnostics:
        assert diagnostic.code in CATALOGUE
        shown = diagnostic.message + (diagnostic.help or "")
        shown += "".join(label.text for label in diagnostic.labels)
        assert shown.isprintable()
    return caught.value.diagnostics


def finding(text: str) -> Diagnostic:
    (only,) = findings(text)
    return only


def places(diagnostic: Diagnostic) -> list[tuple[int, str]]:
    """Column and text of every label."""
    return [(label.span.column, label.span.text) for label in diagnostic.labels]


# ---- what is right


def test_the_textbook_line() -> None:
    (net,) = program("[(CONV-RELU)*N-POOL]*M-(FC-RELU)*K, SOFTMAX")
    assert isinstance(net, ast.Net) and net.name is None and net.head is not None
    assert (net.head.name, net.head.span.text) == ("SOFTMAX", "SOFTMAX")
    first, second = net.chain.items
    assert first.span.text == "[(CONV-RELU)*N-POOL]*M"
    assert second.span.text == "(FC-RELU)*K"
    assert isinstance(first.body, ast.Group)
    inner, pool = first.body.chain.items
    assert [inner.posts[0].span.text, pool.span.text] == ["*N", "POOL"]


def test_statements() -> None:
    text = """
import "lib/blocks.cnn" (cbr, bottle)   # a comment, with ünïcode
let N = 2 + 1
default CONV(bias=false, P=half)
block pair(k, s=1) = CONV(k)->RELU
module tower = CONV(4)
input a: 3@32x32
input 128
net Big = @a - tower, SVM(margin=2)
output aux = FC(10)
"""
    import_, let, default, block, module, named, plain, net, output = program(text)
    assert isinstance(import_, ast.Import) and import_.path == "lib/blocks.cnn"
    assert [(n, s.text) for n, s in import_.names] == [("cbr", "cbr"), ("bottle", "bottle")]
    assert import_.path_span.text == '"lib/blocks.cnn"'
    assert isinstance(let, ast.Let) and (let.name, value(let.value)) == ("N", ("+", 2, 1))
    assert let.span.text == "let N = 2 + 1" and let.name_span.text == "N"
    assert isinstance(default, ast.Default) and default.layer == "CONV"
    assert default.span.text == "default CONV(bias=false, P=half)"
    assert [(a.name, value(a.value), a.span.text) for a in default.arguments] == [
        ("bias", "false", "bias=false"),
        ("P", "half", "P=half"),
    ]
    assert isinstance(block, ast.Definition) and block.keyword == "block"
    k, s = block.parameters
    assert (k.name, k.default, s.span.text) == ("k", None, "s=1")
    assert block.body.span.text == "CONV(k)->RELU"
    assert isinstance(module, ast.Definition)
    assert (module.keyword, module.parameters) == ("module", ())
    assert isinstance(named, ast.Input) and (named.name, named.shape.notation) == ("a", "C@HW")
    assert isinstance(plain, ast.Input) and (plain.name, plain.shape.dims) == (None, (128,))
    assert isinstance(net, ast.Net) and (net.keyword, net.name) == ("net", "Big")
    assert net.head is not None and net.head.span.text == "SVM(margin=2)"
    assert isinstance(output, ast.Net) and output.span.text == "output aux = FC(10)"


def test_items() -> None:
    (item,) = chain("ADD{a|@b}*(k, n in 1 .. 4, (2, 3))?(k > 1) else c{d|e} as t :: 2@3").items
    assert isinstance(item.body, ast.Call) and item.body.span.text == "ADD{a|@b}"
    assert isinstance(item.body.branches[1].items[0].body, ast.Reference)
    repeat, condition, tag, note = item.posts
    assert isinstance(repeat, ast.Repeat) and isinstance(repeat.count, ast.Loop)
    assert repeat.count.names == ("k", "n")
    assert [e.span.text for e in repeat.count.elements] == ["1 .. 4", "(2, 3)"]
    assert isinstance(repeat.count.elements[0], ast.Range)
    assert isinstance(condition, ast.Condition)
    assert condition.span.text == "?(k > 1) else c{d|e}"
    assert isinstance(tag, ast.Tag) and tag.span.text == "as t"
    assert isinstance(note, ast.Note) and note.shape.dims == (2, 3)
    assert note.span.text == ":: 2@3"


@pytest.mark.parametrize("count", ["*3", "*N", "*(N + 1)", "*(k in 1, 2)"])
def test_counts(count: str) -> None:
    (post,) = chain(f"RELU{count}").items[0].posts
    assert isinstance(post, ast.Repeat) and post.span.text == count


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 - 3", ("-", ("+", 1, 2), 3)),
        ("1 + 2 * 3", ("+", 1, ("*", 2, 3))),
        ("-2 ** 2", ("-", ("**", 2, 2))),
        ("2 ** -1 ** 2", ("**", 2, ("-", ("**", 1, 2)))),
        ("8 // 2 / 2", ("/", ("//", 8, 2), 2)),
        ("not a == 1 or b and c", ("or", ("not", ("==", "a", 1)), ("and", "b", "c"))),
        ("(1 + 2) * 3", ("*", ("+", 1, 2), 3)),
        ("(1, (2, 3x5))", (1, (2, (3, 5)))),
        ("@.C // @e1.H", ("//", "@.C", "@e1.H")),
        ("1e-3 + .5 + 'a b'", ("+", ("+", 0.001, 0.5), "a b")),
        ("andy != notx", ("!=", "andy", "notx")),
    ],
)
def test_expressions(text: str, wanted: object) -> None:
    expr = expression(text)
    assert value(expr) == wanted
    assert expr.span.text == text


def test_parentheses_belong_to_the_span() -> None:
    expr = expression("(1 + 2) * 3")
    assert isinstance(expr, ast.Binary) and expr.left.span.text == "(1 + 2)"


@pytest.mark.parametrize(
    ("text", "notation", "dims"),
    [
        ("32x32x3", "HWC", (32, 32, 3)),
        ("3@32x16", "C@HW", (3, 32, 16)),
        ("3@128", "C@L", (3, 128)),
        ("784", "N", (784,)),
    ],
)
def test_shapes(text: str, notation: str, dims: tuple[int, ...]) -> None:
    shape = parse_shape(text)
    assert (shape.notation, shape.dims, shape.span.text) == (notation, dims, text)


def test_command_line_values() -> None:
    assert value(parse_value("-3")) == ("-", 3)
    assert value(parse_value("(64, 128)")) == (64, 128)
    default = parse_default("CONV(K=64)")
    assert (default.layer, default.span.text) == ("CONV", "CONV(K=64)")
    for parse_text in (parse_value, parse_default, parse_shape):
        for text in ("", "3 3", "(", "\0", "net"):
            with pytest.raises(CompileError):
                parse_text(text)


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_networks_parse(path: Path) -> None:
    assert parse(read_source(path)).statements


# ---- slips


@pytest.mark.parametrize(
    ("text", "code", "labels", "help"),
    [
        (
            "CONV(64) RELU - POOL",
            "E101",
            [(10, "RELU"), (1, "CONV(64)")],
            "write `CONV(64) - RELU`",
        ),
        ("a - b*2 as t FC", "E101", [(14, "FC"), (9, "as t")], "write `as t - FC`"),
        ("[a - b", "E102", [(1, "["), (7, "")], "write `]` where the group ends"),
        ("[(a-b)*2-c - FC(10), SVM", "E102", [(1, "["), (20, "")], None),
        ("CONV(64, F=3", "E102", [(5, "("), (13, "")], None),
        (
            "CONV(3\n- a - FC(10), SVM",
            "E102",
            [(5, "("), (9, "")],
            "write `)` where the group ends",
        ),
        ("[a - b) - c", "E103", [(7, ")"), (1, "[")], "write `]` here"),
        ("CONV(64]", "E103", [(8, "]"), (5, "(")], "write `)` here"),
        ("x - ADD{ a - b }", "E104", [(8, "{ a - b }")], None),
        ("ADD(1){}", "E104", [(7, "{}")], None),
        ("(a-b)*N+1 - c", "E105", [(8, "+"), (6, "*N")], "write *(N + 1)"),
        ("(a-b)*N-1 - c", "E105", [(8, "-"), (6, "*N")], "write *(N - 1)"),
        ("(a-b)*2**K", "E105", [(8, "**"), (6, "*2")], "write *(2 ** K)"),
        ("(a-b)*-1", "E105", [(7, "-")], None),
        ("(a-b)*2.5", "E105", [(7, "2.5")], None),
        ("a, SVM, SVM", "E106", [(7, ","), (4, "SVM")], None),
        ("a, b - c", "E106", [(6, "-"), (4, "b")], "join layers by `-` and put the head last"),
        ("a, SVM(1) - c", "E106", [(11, "-"), (4, "SVM(1)")], None),
        ("[a, b]*2 - c", "E106", [(3, ",")], "join layers by `-`"),
        ("input 32 x 32 x 3", "E107", [(10, "x")], None),
        ("input (32,32,3)", "E107", [(7, "(")], None),
        ("input 32,32,3", "E107", [(9, ",")], None),
        ("input 32X32X3", "E107", [(9, "X32X3")], None),
        ("input 32x32", "E107", [(7, "32x32")], "add the channels: 32x32x1 or 1@32x32"),
        ("input 3@32x32x1", "E107", [(7, "3@32x32x1")], None),
        ("input 0x32x3", "E107", [(7, "0x32x3")], None),
        ("a :: 5x5 x 3", "E107", [(10, "x")], None),
        ("a - POOL? - c", "E108", [(9, "?")], None),
        ("[a - POOL?]*2", "E108", [(10, "?")], None),
        ("a) - b", "E114", [(2, ")")], None),
        ("input 8x8x3\na - b", "E115", [(1, "a")], None),
        ("a - b\ninput 8x8x3", "E115", [(1, "a")], None),
        ("CONV(64 F=3)", "E116", [(9, "F")], "write `, F`"),
        ("let x = 1_000", "E100", [(9, "1_000")], None),
        ("nett a = b", "E100", [(1, "nett")], "write `net`"),
        ("a -", "E100", [(4, "")], None),
        ("a?(1 < 2 < 3)", "E100", [(10, "<")], "join two comparisons by `and`"),
        ("net input = a", "E112", [(5, "input")], None),
        ("let größe = 1", "E112", [(5, "größe")], None),
        ("let " + "n" * 101 + " = 1", "E112", [(5, "n" * 101)], None),
        ("let x = 1" + "0" * 18, "E111", [(9, "1" + "0" * 18)], None),
        ("let x = " + "9" * 5000, "E111", [(9, "9" * 5000)], None),
        ("let x = 1e400", "E111", [(9, "1e400")], None),
        ("let x = ٣", "E111", [(9, "٣")], None),
        ("let x = 'a\nnet a = b", "E113", [(9, "'a")], None),
        ("a – b", "E109", [(3, "–")], "write `-`"),
        ("a\u00a0- b", "E109", [(2, "\u00a0")], "type a space"),
        ("", "E110", [(1, "")], None),
        (" \n\t# nothing yet", "E110", [(1, "")], None),
    ],
)
def test_slips(text: str, code: str, labels: list[tuple[int, str]], help: str | None) -> None:
    found = finding(text)
    assert (found.code, places(found)) == (code, labels), found.message
    if help is not None:
        assert found.help == help


def test_two_slips_give_two_findings() -> None:
    text = "let N =\nblock f(k) = CONV(k) RELU\nnet a = f(3)\nnet b = [f(3)\noutput c = f(3))\n"
    assert [(f.code, f.labels[0].span.line) for f in findings(text)] == [
        ("E100", 1),
        ("E101", 2),
        ("E102", 4),
        ("E114", 5),
    ]


def test_a_keyword_inside_a_line_is_no_place_to_begin_anew() -> None:
    assert len(findings("net a = b c net d = e f")) == 1


def test_at_most_twenty_findings() -> None:
    assert len(findings("let a =\n" * 1000)) == 20


# ---- text hygiene


@pytest.mark.parametrize(
    "char", ["\0", "\x1b", "\x0c", "\u200b", "\u202e", "\u2066", "\ufeff", "\u2028", "\udc80"]
)
@pytest.mark.parametrize("text", ["net a = b{} - c", "net a = b # {}\n", "import '{}' (c)"])
def test_refused_characters(char: str, text: str) -> None:
    found = finding(text.format(char) if "{}" in text else text)
    assert found.code == "E109" and f"U+{ord(char):04X}" in found.message
    # what a renderer prints is the source of the label
    assert char not in found.labels[0].span.source.text
    assert found.labels[0].span.start == text.index("{}")


def test_lone_carriage_return() -> None:
    assert "U+000D" in finding("net a = b\rnet c = d").message
    assert len(program("net a = b\r\n\tnet c = d\r\n")) == 2


def test_letters_in_comments_and_strings() -> None:
    (import_,) = program("import 'größe.cnn' (x)  # größer")
    assert isinstance(import_, ast.Import) and import_.path == "größe.cnn"


# ---- limits


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[" * 65 + "a" + "]" * 65, "E304"),
        ("[" * 100_000, "E304"),
        ("let x = " + "(" * 100_000, "E304"),
        ("let x = " + "1+" * 64 + "1", "E304"),
        ("let x = " + "not " * 20_000 + "a", "E304"),
        ("let x = " + "a**" * 20_000 + "a", "E304"),
        ("let a=1\n" * 130_000, "E304"),
        ("a" * (MAX_BYTES + 1), "E304"),
        ("let a=" + "1x" * 500_000, "E112"),
        ('"' * 10_000, "E100"),
        ("é" * 1_000_000, "E112"),
        ("#\n" * 500_000, "E110"),
    ],
    ids=lambda value: value[:16],
)
def test_hostile_texts_are_answered_quickly(text: str, code: str) -> None:
    program("a")  # builds the tables
    start = time.process_time()
    assert finding(text).code == code
    assert time.process_time() - start < 20.0  # measured: 0.6 s at most; quadratic work takes hours


def test_long_but_sound() -> None:
    assert len(chain("-".join(["RELU"] * 20_000)).items) == 20_000
    assert chain("[" * 64 + "a" + "]" * 64).items
    assert expression("1+" * 63 + "1")
