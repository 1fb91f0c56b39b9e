"""Diagnostics to documents for programs: a JSON list and SARIF 2.1.0.

Lines and columns count from 1 in Unicode characters, the end column is exclusive. Frames come
from the outside in. Both documents are byte-stable: the same findings give the same text.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from convdsl.diagnostics import Diagnostic, Label
from convdsl.errors import CATALOGUE
from convdsl.source import Span

SCHEMA_VERSION = 1
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_json(diagnostics: Sequence[Diagnostic]) -> str:
    """A JSON document: the schema's version, counts and the list of findings."""
    return dump(
        {
            "schema": "convdsl.diagnostics",
            "version": SCHEMA_VERSION,
            "errors": sum(d.is_error for d in diagnostics),
            "warnings": sum(not d.is_error for d in diagnostics),
            "diagnostics": [finding(d) for d in diagnostics],
        }
    )


def finding(diagnostic: Diagnostic) -> dict[str, Any]:
    """One diagnostic as an object; its place is null when it has none."""
    first = diagnostic.labels[0].span if diagnostic.labels else None
    return {
        "code": diagnostic.code,
        "severity": _severity(diagnostic),
        "message": diagnostic.message,
        "place": place(first) if first else None,
        "labels": [{"text": label.text, **place(label.span)} for label in diagnostic.labels],
        "frames": [{"text": frame.text, **place(frame.span)} for frame in diagnostic.frames],
        "notes": list(diagnostic.notes),
        "help": diagnostic.help,
    }


def place(span: Span) -> dict[str, Any]:
    """File, first line and column, last line and column (exclusive)."""
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(max(span.start, span.end))
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


def to_sarif(diagnostics: Sequence[Diagnostic], version: str) -> str:
    """A SARIF 2.1.0 log, as GitHub code scanning and editors read it."""
    codes = sorted({d.code for d in diagnostics})
    driver = {"name": "convdsl", "version": version, "rules": [_rule(code) for code in codes]}
    return dump(
        {
            "$schema": _SARIF_SCHEMA,
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {"driver": driver},
                    "columnKind": "unicodeCodePoints",
                    "results": [_result(d, codes) for d in diagnostics],
                }
            ],
        }
    )


def dump(document: dict[str, Any]) -> str:
    """ASCII JSON with a line ending, the same bytes on every run."""
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _severity(diagnostic: Diagnostic) -> str:
    return "error" if diagnostic.is_error else "warning"


def _rule(code: str) -> dict[str, Any]:
    entry = CATALOGUE[code]
    return {
        "id": code,
        "shortDescription": {"text": entry.title},
        "fullDescription": {"text": entry.explanation},
    }


def _result(diagnostic: Diagnostic, codes: list[str]) -> dict[str, Any]:
    text = [diagnostic.message, *diagnostic.notes]
    if diagnostic.help:
        text.append(f"help: {diagnostic.help}")
    related = [
        {"id": number, **_location(label)} for number, label in enumerate(diagnostic.labels[1:], 1)
    ]
    related += [
        {"id": number, **_location(Label(frame.span, frame.text))}
        for number, frame in enumerate(diagnostic.frames, len(related) + 1)
    ]
    return {
        "ruleId": diagnostic.code,
        "ruleIndex": codes.index(diagnostic.code),
        "level": _severity(diagnostic),
        "message": {"text": "\n".join(text)},
        "locations": [_location(label) for label in diagnostic.labels[:1]],
        **({"relatedLocations": related} if related else {}),
    }


def _location(label: Label) -> dict[str, Any]:
    at = place(label.span)
    region = {
        "startLine": at["line"],
        "startColumn": at["column"],
        "endLine": at["end_line"],
        "endColumn": at["end_column"],
    }
    physical = {
        # Surrogates (undecodable bytes of a file name) have no UTF-8 form to quote.
        "artifactLocation": {"uri": quote(at["file"].encode("utf-8", "surrogateescape"))},
        "region": region,
    }
    message = {"message": {"text": label.text}} if label.text else {}
    return {"physicalLocation": physical, **message}
