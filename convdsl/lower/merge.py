"""Which branch of a merge does what: the labels of `branches disagree` findings."""

from dataclasses import dataclass

from convdsl.diagnostics import Label
from convdsl.ir.types import Notation, TensorType
from convdsl.source import Span

MOST = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One item of a branch, with the tensor it makes."""

    span: Span
    result: TensorType


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch as expanded: where it stands, what it starts from (if anything), its items."""

    span: Span
    start: TensorType | None
    steps: tuple[Step, ...]

    @property
    def result(self) -> TensorType | None:
        return self.steps[-1].result if self.steps else self.start


def disagreement(branches: list[Branch], notation: Notation) -> tuple[Label, ...]:
    """A label for the first branch and for those that differ from it, at most `MOST`."""
    first = branches[0].result
    others = [b for b in branches[1:] if b.result != first]
    return tuple(_explain(b, notation) for b in [branches[0], *others][:MOST])


def _explain(branch: Branch, notation: Notation) -> Label:
    """What the branch does to the shape, at the item that does it."""
    start, result = branch.start, branch.result
    if start is None or result is None:
        return Label(branch.span, "" if result is None else f"gives {notation.show(result)}")
    if result == start:
        return Label(branch.span, f"passes {notation.show(start)} through")
    before = start
    for step in branch.steps:
        resizes = step.result.spatial == result.spatial != before.spatial
        # of a vector it matters how long it is in the end
        if resizes and (result.spatial or step.result.channels == result.channels):
            return Label(step.span, _resizing(before, step.result, notation))
        before = step.result
    last = next(s for s in branch.steps if s.result.channels == result.channels)
    return Label(last.span, f"gives {notation.show(result)}")


def _resizing(before: TensorType, after: TensorType, notation: Notation) -> str:
    if len(before.shape) == len(after.shape) == 3:
        halved = [-(-size // 2) for size in before.spatial]
        if list(after.spatial) in (halved, [size // 2 for size in before.spatial]):
            return f"halves H, W to {notation.show(after)}"
    return f"takes {notation.show(before)} to {notation.show(after)}"
