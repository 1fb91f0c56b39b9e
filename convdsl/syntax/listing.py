"""A lecture's listing, `[55x55x96] CONV1: 96 11x11 filters` -> AST (`convdsl.syntax.ast`).

Lines are read one by one with ``grammars/listing.lark``; every mistake is reported, each at its
line. A volume in brackets becomes a checked shape note. What a listing leaves unsaid is settled by
the rules of `convdsl.syntax.listing_program` and by nothing else. The result is an ordinary program
whose spans lie in the listing: no later stage can tell the difference.
"""

import re
from dataclasses import replace
from functools import cache
from typing import Any

from lark import Lark
from lark.exceptions import UnexpectedToken

from convdsl.diagnostics import CompileError, Diagnostic, Label
from convdsl.source import Source, Span
from convdsl.syntax.ast import Program
from convdsl.syntax.characters import check_characters
from convdsl.syntax.grammar import grammar_path
from convdsl.syntax.listing_lines import Dropout, Input, LayerLine, Line, Prose
from convdsl.syntax.listing_places import Transcript
from convdsl.syntax.listing_program import transcribe
from convdsl.syntax.listing_read import Read
from convdsl.syntax.parser import MAX_FINDINGS

MAX_LINES = 1_000
MAX_LENGTH = 1_000  # of a line

# A volume at the start of a line, then a word: no program of the language has that.
_SIGNATURE = re.compile(r"^[ \t]*\[[ \t]*\d+([ \t]*[x×][ \t]*\d+)*[ \t]*\][ \t]*[A-Za-z]", re.M)

_WORDS = {
    "VOLUME": "a volume such as [55x55x96]",
    "INPUT": "`INPUT`",
    "CONVOLUTION": "`CONV`",
    "POOLING": "`POOL`",
    "KIND": "`MAX POOL`",
    "NORM": "`NORM`",
    "DENSE": "`FC`",
    "COLON": "`:`",
    "INT": "a whole number",
    "NUMBER": "a number such as 0.5",
    "SIZE": "a size such as 3x3",
    "FILTERS": "`filters`",
    "NEURONS": "`neurons`",
    "NORMALIZATION": "`Normalization layer`",
    "STRIDE": "`stride`",
    "PADDING": "`pad`",
    "ARROW": "`=>` and the volume",
    "DROPPING": "`dropout`",
    "RECTIFIER": "`first use of ReLU`",
    "TRAINING": "a setting of the training",
    "CLASSES": "(class scores)",
    "MAP": "(probability map)",
    "$END": "the end of the line",
}
#: a whole line of its kind, by the word it is recognised by
_EXAMPLES = {
    "conv": "[55x55x96] CONV1: 96 11x11 filters at stride 4, pad 0",
    "pool": "[27x27x96] MAX POOL1: 3x3 filters at stride 2",
    "norm": "[27x27x96] NORM1: Normalization layer",
    "fc": "[4096] FC6: 4096 neurons",
    "input": "[227x227x3] INPUT",
    "dropout": "- dropout 0.5",
}


def is_listing(source: Source) -> bool:
    """Whether the text looks like a listing: a line begins ``[55x55x96] CONV1``."""
    return _SIGNATURE.search(source.text) is not None


def parse_listing(source: Source) -> Program:
    """The program a listing says. Raises CompileError with all that is wrong with it."""
    return _transcript(source).parse()


def program_text(source: Source) -> str:
    """The listing as a program of the language, one line for a line. Raises CompileError."""
    transcript = _transcript(source)
    transcript.parse()
    return transcript.text


def _limit(span: Span, what: str) -> Diagnostic:
    label = Label(span, "the limit is passed here")
    help = "write a program with repeats and blocks"
    return Diagnostic("E304", f"the listing has {what}", (label,), help=help)


def _transcript(source: Source) -> Transcript:
    check_characters(source)
    findings: list[Diagnostic] = []
    lines: list[Line] = []
    start = 0
    for number, text in enumerate(source.text.split("\n")):
        if number == MAX_LINES:
            end = start + len(text)
            findings.append(_limit(Span(source, start, end), f"more than {MAX_LINES:,} lines"))
        elif len(text) > MAX_LENGTH:
            end = start + MAX_LENGTH
            message = f"a line of more than {MAX_LENGTH:,} characters"
            findings.append(_limit(Span(source, end, end + 1), message))
        if len(text) > MAX_LENGTH or number == MAX_LINES or len(findings) >= MAX_FINDINGS:
            break
        lines += _line(source, start, text, findings)
        start += len(text) + 1
    if not findings:
        findings += _order(source, lines)
    if findings:
        raise CompileError(findings)
    return transcribe(source, lines)


def _line(source: Source, start: int, text: str, findings: list[Diagnostic]) -> list[Line]:
    """What one line says, its comment too; nothing if it is blank or adds a finding."""
    content, mark, comment = text.partition("#")
    remark = comment.strip()
    remarks = [Prose(Span(source, start, start + len(text)), remark)] if mark else []
    if not content.strip():
        return [*remarks]
    try:
        tree = _grammar().parse(content, start="line")
    except UnexpectedToken as error:
        findings.append(_not_understood(source, start, content, error))
        return []
    line = Read(source, start).transform(tree)
    if isinstance(line, LayerLine):
        return [replace(line, remark=remark)]
    return [*remarks, line]


@cache
def _grammar() -> Lark:
    text = grammar_path("listing.lark").read_text(encoding="utf-8")
    starts = ["line", "no_listing"]
    return Lark(text, parser="lalr", lexer="basic", start=starts, maybe_placeholders=True)


def _not_understood(source: Source, start: int, text: str, error: UnexpectedToken) -> Diagnostic:
    token: Any = error.token
    end = len(text.rstrip())
    at = end if token.type == "$END" else token.start_pos
    place = Span(source, start + at, start + (end if token.type == "$END" else token.end_pos))
    wanted = [word for name, word in _WORDS.items() if name in error.accepts]
    expected = f"{', '.join(wanted[:-1])} or {wanted[-1]}" if wanted[1:] else "".join(wanted)
    kind = next((k for k in _EXAMPLES if re.search(rf"\b{k}", text[: at + 1], re.I)), None)
    help = f"write it as the lectures do: {_EXAMPLES[kind or 'conv']}"
    if text.lstrip().startswith("-"):
        help = f"write `{_EXAMPLES['dropout']}`, or begin the remark with #"
    elif kind is None:
        help += "; a comment begins with #"
    return Diagnostic(
        "E117",
        "this line of the listing is not understood",
        (Label(place, f"expected {expected}"),),
        help=help,
    )


def _order(source: Source, lines: list[Line]) -> list[Diagnostic]:
    """What is wrong between the lines, each of them being right."""
    findings = []
    inputs = [line for line in lines if isinstance(line, Input)]
    layers = [line for line in lines if isinstance(line, LayerLine)]
    dropouts = [line for line in lines if isinstance(line, Dropout)]

    def wrong(message: str, help: str, *labels: Label) -> None:
        findings.append(Diagnostic("E118", message, labels, help=help))

    if not inputs:
        first = layers[0] if layers else lines[0]
        help = f"begin with its volume: {_EXAMPLES['input']}"
        wrong("the listing has no INPUT", help, Label(first.place, "before this line"))
    elif not layers:
        wrong("the listing has no layers", "add one a line", Label(inputs[0].place, "only this"))
    elif layers[0].place.start < inputs[0].place.start:
        label = Label(inputs[0].place, "the input")
        help = "write the INPUT line first"
        wrong("a layer stands before INPUT", help, Label(layers[0].place, "a layer"), label)
    for kind, places in (
        ("INPUT line", [line.place for line in inputs]),
        ("dropout", [line.place for line in dropouts]),
    ):
        for place in places[1:]:
            labels = (Label(place, "the second"), Label(places[0], "the first"))
            wrong(f"the listing has two {kind}s", "keep one", *labels)
    titles = [line.place for line in lines if isinstance(line, Prose) and line.is_title]
    for place in titles:
        if inputs and place.start > inputs[0].place.start:
            label = Label(place, "a title?")
            wrong("a title stands below INPUT", "begin a comment with #", label)
    for line in layers[:-1]:
        if line.ending is not None:
            labels = (Label(line.ending.place, "the output"), Label(layers[-1].place, "a layer"))
            wrong("layers follow the output", "mark the last layer only", *labels)
    for line in layers:
        problem = line.problem
        if problem is not None:
            wrong(*problem)
    return findings
