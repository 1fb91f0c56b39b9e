"""The lines of a listing -> a program of the language, one line for a line, in the same order.

Here stand the rules for what the lectures' listings leave unsaid (docs/language.md tells them too):

- RELU follows every CONV and FC but the last layer of the listing;
- ``- dropout 0.5`` under the listing puts DROPOUT behind the RELU of every FC but the last layer;
- ``(class scores)`` makes the last layer's output the scores of the head, a softmax;
- ``(probability map ...)`` puts the softmax over all positions of the last layer's map, and each
  position has a bias of its own (Silver et al., 2016);
- the normalization layer has the numbers of Krizhevsky et al., 2012.

The names of those layers are looked up in the registry like any others.
"""

import re

from convdsl.source import Source, Span
from convdsl.syntax.listing_lines import (
    NORMALIZATION,
    Argument,
    Dropout,
    Input,
    LayerLine,
    Line,
    Prose,
)
from convdsl.syntax.listing_places import Transcript

# the paper's alpha of 1e-4 is not divided by the window of 5, the layer's is
NUMBERS = "default LRN(5, alpha=0.0005, beta=0.75, k=2)\n"
FILLER = frozenset({"full", "simplified", "architecture", "network", "net", "the"})


def transcribe(source: Source, lines: list[Line]) -> Transcript:
    """The program that ``lines``, which are in order, say."""
    return _Writer(source, lines).write()


class _Writer:
    """One run of `transcribe`."""

    def __init__(self, source: Source, lines: list[Line]) -> None:
        self.lines = lines
        self.out = Transcript(source)
        self.layers = [line for line in lines if isinstance(line, LayerLine)]
        self.dropout = next((line for line in lines if isinstance(line, Dropout)), None)

    def write(self) -> Transcript:
        for line in self.lines:
            if isinstance(line, Prose):
                self.out.write(f"# {line.text}\n", line.place)
            elif isinstance(line, Input):
                self._input(line)
            elif isinstance(line, LayerLine):
                if line is self.layers[0]:
                    self._title(line.place)
                else:
                    self.out.write("  - ", line.place)
                self._layer(line)
        return self.out

    def _input(self, line: Input) -> None:
        self.out.write("input ", line.place)
        self.out.write(line.volume.text, line.volume.place)
        self.out.write("\n", line.place)
        norm = next((layer for layer in self.layers if layer.name.text == NORMALIZATION), None)
        if norm is not None:
            self.out.write(NUMBERS, norm.place)

    def _title(self, place: Span) -> None:
        """``net AlexNet =`` of a title above: Full (simplified) AlexNet architecture."""
        self.out.write("net ", place)
        for line in self.lines:
            if isinstance(line, Prose) and line.is_title and line.place.start < place.start:
                words = re.findall("[A-Za-z0-9]+", line.text)
                name = "".join(word for word in words if word.lower() not in FILLER)
                self.out.write(f"{name.lstrip('0123456789')} ", line.place)
                break
        self.out.write("=\n    ", place)

    def _layer(self, line: LayerLine) -> None:
        write, at = self.out.write, line.name.place
        is_last = line is self.layers[-1]
        rectified = line.weighs and not is_last
        if line.count > 1:
            write("(", at)
        self._call(line)
        if rectified:
            write(" - RELU", at)
        if rectified and line.dense and self.dropout is not None:
            write(" - DROPOUT(", at)
            write(self.dropout.p.text, self.dropout.p.place)
            write(")", at)
        if line.count > 1:
            write(")*", at)
            write(str(line.count), at)
        write(" :: ", line.volume.place)
        write(line.volume.text, line.volume.place)
        ending = line.ending
        if ending is not None and not ending.is_map:
            write(", SOFTMAX", ending.place)
        remark = f": {line.remark}" if line.remark else ""
        write(f"  # {line.name.place.text}{remark}\n", at)
        if ending is not None and ending.is_map:
            write("  - FLATTEN, SOFTMAX\n", ending.place)

    def _call(self, line: LayerLine) -> None:
        write, at = self.out.write, line.name.place
        write(line.name.text, at)
        for argument in line.arguments:
            write("(" if argument is line.arguments[0] else ", ", argument.place)
            self._argument(argument)
        if line.ending is not None and line.ending.is_map:
            write(", bias=position", line.ending.place)
        if line.arguments:
            write(")", _end(line))

    def _argument(self, argument: Argument) -> None:
        if argument.letter:
            self.out.write(f"{argument.letter}=", argument.place)
        self.out.write(argument.value.text, argument.value.place)


def _end(line: LayerLine) -> Span:
    """Where the layer's own words end: its last argument."""
    return line.arguments[-1].place
