"""`convdsl explain` and `convdsl layers`: the catalogue of findings and the registry of layers."""

import textwrap
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from convdsl.cli.outcome import Outcome, stdout_style
from convdsl.errors import CATALOGUE
from convdsl.report.layout import Column, TableRow, lay_out

if TYPE_CHECKING:
    from convdsl.ir.arguments import ArgumentSpec
    from convdsl.ir.head import Head
    from convdsl.ir.op import Layer


@click.command(short_help="Explain the code of a finding, such as E210.")
@click.argument("code")
def explain(code: str) -> Outcome:
    """Say what the finding CODE (such as E210) means and how to mend it."""
    wanted = code.upper()
    entry = CATALOGUE.get(wanted)
    if entry is None:
        raise click.BadParameter(_unknown("code", code, wanted, list(CATALOGUE)))
    return Outcome(f"{wanted}: {entry.title}\n\n{entry.explanation}\n")


@click.command(short_help="List the layers and heads, or show one with its arguments.")
@click.argument("name", required=False)
def layers(name: str | None) -> Outcome:
    """List the layers and heads of the language, or show one with its arguments."""
    import convdsl.ops
    from convdsl.ir.op import HEADS, LAYERS

    del convdsl  # imported for its registrations
    if name is None:
        return Outcome(_listing(LAYERS, HEADS))
    wanted = name.upper()
    if wanted not in LAYERS and wanted not in HEADS:
        raise click.BadParameter(_unknown("layer", name, wanted, [*LAYERS, *HEADS]))
    parts = []
    if wanted in LAYERS:
        parts.append(_layer(LAYERS[wanted]))
    if wanted in HEADS:
        parts.append(_head(HEADS[wanted]))
    return Outcome("\n".join(parts))


def _unknown(kind: str, given: str, wanted: str, known: list[str]) -> str:
    near = get_close_matches(wanted, known, 3, 0.5)
    advice = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"no {kind} {given!r}.{advice}"


def _listing(layers: dict[str, type["Layer"]], heads: dict[str, type["Head"]]) -> str:
    style = stdout_style()
    tables: dict[str, Mapping[str, type[Layer] | type[Head]]] = {"layer": layers, "head": heads}
    parts = []
    for heading, kinds in tables.items():
        columns = (Column(heading, least=20), Column("what it does", least=30))
        rows = [
            TableRow((signature(name, kind.arguments(), short=True), _summary(kind)))
            for name, kind in sorted(kinds.items())
        ]
        parts.append(lay_out(columns, rows, style))
    parts.append("...: arguments given by name. convdsl layers NAME shows all arguments of one.\n")
    return "\n".join(parts)


def signature(name: str, arguments: tuple["ArgumentSpec", ...], short: bool = False) -> str:
    """``POOL(F=2, [S], P=0)``: letters where there are some, defaults, in positional order.

    short: those that are given by name only as ``...``.
    """
    if not arguments:
        return name
    shown = [_argument(spec) for spec in arguments if not (short and spec.by_name)]
    more = ["..."] if short and any(spec.by_name for spec in arguments) else []
    return f"{name}({', '.join([*shown, *more])})"


def _argument(spec: "ArgumentSpec") -> str:
    word = spec.letter or spec.name
    if spec.required:
        return word
    return f"[{word}]" if spec.default is None else f"{word}={_value(spec.default)}"


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").replace("``", "`").strip().splitlines()[0]


def _doc(kind: type) -> str:
    text = (kind.__doc__ or "").replace("``", "`").strip()
    return "\n".join(line.strip() for line in text.splitlines())


def _layer(layer: type["Layer"]) -> str:
    text = signature(layer.name, layer.arguments())
    if layer.arity != 1:
        text += "{branch | branch ...}"
    parts = [f"{text}\n\n{_doc(layer)}\n", _arguments(layer.arguments())]
    if layer.examples:
        shown = "".join(f"  input {shape}  {line}\n" for shape, line in layer.examples)
        parts.append(f"Examples:\n{shown}")
    return "\n".join(part for part in parts if part)


def _head(head: type["Head"]) -> str:
    text = f", {signature(head.name, head.arguments())}   (head: after the comma)"
    parts = [f"{text}\n\n{_doc(head)}\n", _arguments(head.arguments())]
    return "\n".join(part for part in parts if part)


def _arguments(arguments: tuple["ArgumentSpec", ...]) -> str:
    """Every argument with its names, its default and what it means, wrapped to 96 columns."""
    if not arguments:
        return ""
    lines = ["Arguments, in positional order:"]
    for spec in arguments:
        names = f"{spec.letter}, {spec.name}" if spec.letter else spec.name
        if spec.required:
            names += "  (required)"
        elif spec.default is not None:
            names += f" = {_value(spec.default)}"
        names += "  (by name only)" if spec.by_name else ""
        lines.append(f"  {names}")
        lines += textwrap.wrap(spec.doc, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "".join(f"{line}\n" for line in lines)


def _value(value: object) -> str:
    """A default as the language writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        if len(set(value)) == 1:
            return _value(value[0])
        return f"({', '.join(map(_value, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
