"""Arguments of layers: dataclass fields that know their letter, their words and their checks.

A converter turns an evaluated value of the language (int, float, bool, str for a bare word, tuple)
into the field's value, or raises ArgumentError with what would have been right.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
from functools import cache
from math import isfinite
from typing import Any, TypeVar, cast, dataclass_transform

Pair = tuple[int, int]
Converter = Callable[[Any], Any]
#: the largest float32, in which generated code works numbers out
GREATEST = 3.4028234663852886e38
C = TypeVar("C", bound=type[Any])


class ArgumentError(ValueError):
    """The value does not suit; the text says what would: ``a positive whole number``."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArgumentSpec:
    """One argument as the language knows it. ``by_name``: it cannot be given by place."""

    name: str
    letter: str | None
    default: Any  # dataclasses.MISSING when it must be given
    doc: str
    convert: Converter
    by_name: bool = False

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


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def shared_arguments(cls: C) -> C:
    """Makes a base class of layers whose fields are arguments of all of them."""
    return cast(C, dataclasses.dataclass(frozen=True)(cls))


@cache
def argument_specs(cls: type[Any]) -> tuple[ArgumentSpec, ...]:
    """In the order of the fields; those that are keyword-only come last and have no place."""
    return tuple(
        ArgumentSpec(f.name, m["letter"], f.default, m["doc"], m["convert"], bool(f.kw_only))
        for f in sorted(dataclasses.fields(cls), key=lambda f: bool(f.kw_only))
        if "convert" in (m := f.metadata)
    )


def whole(least: int | None = None, most: int | None = None) -> Converter:
    """Integers, from ``least`` up if that is given, to ``most`` if that is given too."""
    wanted = "a whole number"
    if least is not None:
        wanted += f" >= {least}" if most is None else f" from {least} to {most}"

    def convert(value: Any) -> int:
        fits = isinstance(value, int) and not isinstance(value, bool)
        if fits and least is not None:
            fits = value >= least and (most is None or value <= most)
        if not fits:
            raise ArgumentError(wanted)
        return int(value)

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


def single(least: int) -> Converter:
    """One integer from ``least`` up, for the one axis of a sequence: a tuple of one."""
    inner = whole(least)
    return lambda value: (inner(value),)


def one_or(inner: Converter) -> Converter:
    """``inner``, but one number stays one number: the same on every axis, however many."""

    def convert(value: Any) -> Any:
        several = inner(value)
        return value if isinstance(value, int) else several

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
    """A number in ``[least, most]`` that float32 can hold."""

    bounds = [f">= {least:g}"] if isfinite(least) else []
    if isfinite(most):
        # a bound just below 1 reads as 1
        bounds.append(f"{'<=' if float(f'{most:g}') == most else '<'} {most:g}")

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ArgumentError("a number")
        if abs(value) > GREATEST:
            raise ArgumentError(f"a number that float32 can hold, at most {GREATEST:.1e} in size")
        if not least <= value <= most:
            raise ArgumentError(f"a number {' and '.join(bounds)}")
        return float(value)

    return convert


def numbers(least: float = float("-inf")) -> Converter:
    """Two or more finite numbers, each >= ``least``: ``(0.2, 1, 3.5)``."""
    one = number(least)

    def convert(value: Any) -> tuple[float, ...]:
        try:
            if isinstance(value, tuple):
                return tuple(one(part) for part in value)
        except ArgumentError:
            pass
        bound = f" >= {least:g}" if isfinite(least) else ""
        raise ArgumentError(f"numbers{bound} in parentheses, as in (0.5, 1, 2)")

    return convert


def choice(*words: str) -> Converter:
    """One of the given bare words."""

    def convert(value: Any) -> str:
        if value not in words:
            raise ArgumentError(f"one of {', '.join(words)}" if words[1:] else f"`{words[0]}`")
        return str(value)

    return convert


def padding(*words: str, axes: int = 2) -> Converter:
    """A word of ``words``, an integer, ``HxW``, or ``((top, bottom), (left, right))``.

    On one axis a word, an integer or ``(start, end)``. Returns the word, or (start, end) per axis.
    """
    forms = "HxW or ((top, bottom), (left, right))" if axes == 2 else "(start, end)"
    wanted = f"{', '.join((*words, 'a whole number'))}{',' if axes == 2 else ' or'} {forms}"

    def convert(value: Any) -> str | tuple[Pair, ...]:
        if isinstance(value, str) and value in words:
            return value
        several = axes == 2 and isinstance(value, tuple)
        values = value if several else (value,) * axes
        sides = tuple(v if isinstance(v, tuple) else (v, v) for v in values)
        if len(sides) != axes or any(
            len(side) != 2
            or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in side)
            for side in sides
        ):
            raise ArgumentError(wanted)
        return sides

    return convert
