"""Arguments of layers: dataclass fields that know their letter, their words and their checks.

A converter turns an evaluated value of the language (int, float, bool, str for a bare word, tuple)
into the field's value, or raises ArgumentError with what would have been right.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
from functools import cache
from math import isfinite
from typing import Any

Pair = tuple[int, int]
Converter = Callable[[Any], Any]


class ArgumentError(ValueError):
    """The value does not suit; the text says what would: ``a positive whole number``."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """One argument as the language knows it."""

    name: str
    letter: str | None
    default: Any  # dataclasses.MISSING when it must be given
    doc: str
    convert: Converter

    @property
    def required(self) -> bool:
        return self.default is MISSING


def field(
    default: Any = MISSING, *, convert: Converter, letter: str | None = None, doc: str
) -> Any:
    """A dataclass field that is an argument of the language."""
    metadata = {"letter": letter, "doc": doc, "convert": convert}
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@cache
def argument_specs(cls: type[Any]) -> tuple[ArgumentSpec, ...]:
    return tuple(
        ArgumentSpec(f.name, m["letter"], f.default, m["doc"], m["convert"])
        for f in dataclasses.fields(cls)
        if "convert" in (m := f.metadata)
    )


def whole(least: int) -> Converter:
    """Integers from ``least`` up."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentError(f"a whole number >= {least}")
        return value

    return convert


def pair(least: int) -> Converter:
    """One integer for both axes, ``HxW`` or ``(H, W)``; each from ``least`` up."""

    def convert(value: Any) -> Pair:
        values = value if isinstance(value, tuple) else (value, value)
        if len(values) != 2 or any(
            isinstance(v, bool) or not isinstance(v, int) or v < least for v in values
        ):
            raise ArgumentError(f"a whole number >= {least}, or two of them as HxW")
        return (values[0], values[1])

    return convert


def optional(inner: Converter) -> Converter:
    """``inner``, or None for "not given" (only ever the default)."""
    return inner


def flag(value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ArgumentError("true or false")
    return value


def number(least: float = float("-inf"), most: float = float("inf")) -> Converter:
    """A finite number in ``[least, most]``."""

    bounds = [f">= {least:g}"] if isfinite(least) else []
    if isfinite(most):
        # a bound just below 1 reads as 1
        bounds.append(f"{'<=' if float(f'{most:g}') == most else '<'} {most:g}")

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ArgumentError("a number")
        if not least <= value <= most:
            raise ArgumentError(f"a number {' and '.join(bounds)}")
        return float(value)

    return convert


def choice(*words: str) -> Converter:
    """One of the given bare words."""

    def convert(value: Any) -> str:
        if value not in words:
            raise ArgumentError("one of " + ", ".join(words))
        return str(value)

    return convert


def padding(*words: str) -> Converter:
    """A word of ``words``, an integer, ``HxW``, or ``((top, bottom), (left, right))``.

    Returns the word, or a pair of (start, end) pairs.
    """

    def convert(value: Any) -> str | tuple[Pair, Pair]:
        wanted = f"{', '.join(words)}, a whole number, HxW or ((top, bottom), (left, right))"
        if isinstance(value, str) and value in words:
            return value
        values = value if isinstance(value, tuple) else (value, value)
        if len(values) != 2:
            raise ArgumentError(wanted)
        sides = tuple(v if isinstance(v, tuple) else (v, v) for v in values)
        for side in sides:
            if len(side) != 2 or any(
                isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in side
            ):
                raise ArgumentError(wanted)
        return (sides[0], sides[1])

    return convert
