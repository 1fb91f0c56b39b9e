"""What a line of a listing can say, each thing with the place it is said at.

Made by `convdsl.syntax.listing_read`, written out as a program by `convdsl.syntax.listing_program`.
"""

from dataclasses import dataclass

from convdsl.diagnostics import Label
from convdsl.source import Span

#: the layer the listings call NORM
NORMALIZATION = "LRN()"


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of the language and the place of the listing it stands for."""

    text: str
    place: Span


@dataclass(frozen=True, slots=True)
class Argument:
    """``F=11`` for ``11x11``: letter (empty for one given by its position), value, whole place."""

    letter: str
    value: Piece
    place: Span


@dataclass(frozen=True, slots=True)
class Prose:
    """A title, a comment, a remark on the training: nothing the network is made of."""

    place: Span
    text: str
    is_title: bool = False


@dataclass(frozen=True, slots=True)
class Dropout:
    """``- dropout 0.5``."""

    place: Span
    p: Piece


@dataclass(frozen=True, slots=True)
class Input:
    """``[227x227x3] INPUT``."""

    place: Span
    volume: Piece


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last layer's output is: class scores, or a map of probabilities."""

    place: Span
    is_map: bool


@dataclass(frozen=True, slots=True)
class LayerLine:
    """``CONV1: ...``, or several equal layers ``CONV2..12: ...``.

    name: the layer's name, at the place of the label, CONV1 as printed. numbers: those of the
    label, none, one, or the first and the last. weighs: has filters or neurons, so a nonlinearity
    follows. dense: its neurons may drop out. remark: the comment behind it.
    """

    place: Span
    name: Piece
    arguments: tuple[Argument, ...]
    numbers: tuple[int, ...]
    weighs: bool
    dense: bool
    volume: Piece
    ending: Ending | None
    remark: str = ""

    @property
    def count(self) -> int:
        """How many layers the line stands for."""
        return self.numbers[-1] - self.numbers[0] + 1 if self.numbers else 1

    @property
    def problem(self) -> tuple[str, str, Label] | None:
        """Message, help and label if the line contradicts itself."""
        ending = self.ending
        if self.count < 1:
            label = Label(self.name.place, "nothing is in between")
            return f"{self.name.place.text} counts backwards", "write the smaller first", label
        if ending is None:
            return None
        if not self.weighs or self.count > 1:
            label = Label(ending.place, "said of the output")
            return "this layer cannot be the output", "mark the one CONV or FC that is", label
        if ending.is_map and self.dense:
            label = Label(ending.place, "neurons have no positions")
            return "an FC makes no map", "write (class scores)", label
        return None


Line = Prose | Dropout | Input | LayerLine
