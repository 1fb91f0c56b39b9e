"""A line's parse tree (``grammars/listing.lark``) -> what it says, `convdsl.syntax.listing_lines`.

Names are taken from the listing as they stand, CONV from CONV1; only the normalization layer and
average pooling have other words in the language. A CONV that prints no ``pad`` has none.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from lark import Token, Transformer, v_args

from convdsl.source import Source, Span
from convdsl.syntax.listing_lines import (
    NORMALIZATION,
    Argument,
    Dropout,
    Ending,
    Input,
    LayerLine,
    Line,
    Piece,
    Prose,
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer before its volume is known."""

    place: Span
    name: Piece
    arguments: tuple[Argument, ...]
    numbers: tuple[int, ...]
    weighs: bool = False
    dense: bool = False


@v_args(inline=True)
class Read(Transformer[Token, Line]):
    """Methods are named after the rules. ``start``: where the line begins in ``source``."""

    def __init__(self, source: Source, start: int) -> None:
        super().__init__()
        self.source = source
        self.start = start

    # ---- lines

    def prose(self, *words: Token) -> Prose:
        text = " ".join(words).strip()
        return Prose(self._place(words[0], words[-1]), text, words[0].type == "TITLE")

    def dropout(self, dash: Token, word: Token, p: Token) -> Dropout:
        return Dropout(self._place(dash, p), self._piece(p))

    def input(self, volume: Token, word: Token) -> Input:
        return Input(self._place(volume, word), self._volume(volume))

    def layer_line(self, *parts: Any) -> LayerLine:
        layer = next(part for part in parts if isinstance(part, _Layer))
        volume = next(part for part in parts if isinstance(part, Token) and part.type == "VOLUME")
        piece, ending = self._volume(volume), parts[-1]
        places = [layer.place, piece.place, *([ending.place] if ending else [])]
        place = Span(self.source, min(p.start for p in places), max(p.end for p in places))
        return LayerLine(
            place,
            layer.name,
            layer.arguments,
            layer.numbers,
            layer.weighs,
            layer.dense,
            piece,
            ending,
        )

    def ending(self, words: Token) -> Ending:
        return Ending(self._place(words), words.type == "MAP")

    # ---- layers

    def convolution(
        self,
        word: Token,
        label: tuple[Token, ...] | None,
        count: Token,
        size: Token,
        filters: Token,
        *options: Argument,
    ) -> _Layer:
        name = self._name(str(word), word, label)
        arguments = (self._argument("", count, count), self._extent(size), *options)
        if not any(option.letter == "P" for option in options):
            arguments += (Argument("P", Piece("valid", name.place), name.place),)
        place = name.place.to(options[-1].place if options else self._place(filters))
        return _Layer(place, name, arguments, _numbers(label), weighs=True)

    def pooling(
        self,
        kind: Token | None,
        word: Token,
        label: tuple[Token, ...] | None,
        size: Token,
        filters: Token | None,
        *options: Argument,
    ) -> _Layer:
        average = kind is not None and kind.lower() != "max"
        name = self._name(f"{'AVG' if average else ''}{word}", kind or word, label or (word,))
        arguments = (replace(self._extent(size), letter=""), *options)
        place = name.place.to(options[-1].place if options else self._place(filters or size))
        return _Layer(place, name, arguments, _numbers(label))

    def normalization(self, word: Token, label: tuple[Token, ...] | None, words: Token) -> _Layer:
        name = self._name(NORMALIZATION, word, label)
        return _Layer(name.place.to(self._place(words)), name, (), _numbers(label))

    def dense(
        self, word: Token, label: tuple[Token, ...] | None, count: Token, neurons: Token
    ) -> _Layer:
        name = self._name(str(word), word, label)
        place = name.place.to(self._place(neurons))
        arguments = (self._argument("", count, count),)
        return _Layer(place, name, arguments, _numbers(label), weighs=True, dense=True)

    def single(self, number: Token) -> tuple[Token, ...]:
        return (number,)

    def several(self, first: Token, last: Token) -> tuple[Token, ...]:
        return (first, last)

    def option(self, word: Token, number: Token) -> Argument:
        letter = "S" if word.type == "STRIDE" else "P"
        return self._argument(letter, word, number)

    # ---- pieces

    def _place(self, first: Token, last: Token | None = None) -> Span:
        begin, end = first.start_pos, (last or first).end_pos
        assert begin is not None and end is not None
        return Span(self.source, self.start + begin, self.start + end)

    def _piece(self, token: Token) -> Piece:
        return Piece(str(token), self._place(token))

    def _argument(self, letter: str, first: Token, value: Token) -> Argument:
        return Argument(letter, self._piece(value), self._place(first, value))

    def _extent(self, size: Token) -> Argument:
        """``F=11`` for 11x11, at the first 11; ``F=3x5`` for 3x5."""
        height, width = _sizes(size)
        place = self._place(size)
        if height != width:
            return Argument("F", Piece(f"{height}x{width}", place), place)
        first = Span(self.source, place.start, place.start + len(height))
        return Argument("F", Piece(height, first), place)

    def _volume(self, token: Token) -> Piece:
        sizes = _sizes(token)
        if len(sizes) == 2:
            sizes.append("1")
        return Piece("x".join(sizes), self._place(token))

    def _name(self, text: str, first: Token, label: tuple[Token, ...] | None) -> Piece:
        return Piece(text.upper(), self._place(first, label[-1] if label else first))


def _numbers(label: tuple[Token, ...] | None) -> tuple[int, ...]:
    return tuple(int(token) for token in label or ())


def _sizes(token: Token) -> list[str]:
    return re.findall(r"[0-9]+", token)
