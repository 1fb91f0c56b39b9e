"""AST -> indented text, the form of `--emit ast`: node names and fields, without spans."""

from dataclasses import fields, is_dataclass
from typing import Any

from convdsl.source import Source, Span


def dump(node: Any, indent: int = 0) -> str:
    """``node`` as text, one line a leaf field; deterministic."""
    pad = "  " * indent
    if isinstance(node, tuple):
        return "".join(dump(item, indent) for item in node)
    if not is_dataclass(node):
        return f"{pad}{node!r}\n"
    text = f"{pad}{type(node).__name__}"
    inner = ""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, Span | Source) or value is None or value == ():
            continue
        if is_dataclass(value) or (isinstance(value, tuple) and is_dataclass(value[0])):
            inner += dump(value, indent + 1)
        else:
            text += f" {field.name}={value!r}"
    return f"{text}\n{inner}"
