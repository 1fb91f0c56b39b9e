"""Numbers to short text: counts, bytes, sizes per axis, parameters with their split."""

from collections.abc import Sequence

from convdsl.report.costs import Field, Row
from convdsl.report.terminal import counted
from convdsl.source import Span

#: bytes of an element of an activation, by the name of the computing type
COMPUTE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_EXACT_BELOW = 1_000_000


def magnitude(number: int) -> str:
    """Exact below a million, else three digits: ``117,600``, ``86.7 M``, ``1.85 G``."""
    if number < _EXACT_BELOW:
        return f"{number:,}"
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if number >= size:
            value = number / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:,.{digits}f} {unit}"
    raise AssertionError("unreachable: a million or more has a unit")


def bytes_of(number: int) -> str:
    """``241.0 KiB``, ``1.5 GiB``; below 1 KiB whole bytes."""
    if number < 1024:
        return counted(number, "byte")
    value = float(number)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:,.1f} TiB"


def kib(number: int) -> str:
    """KiB to about three digits: ``0.04``, ``18.4``, ``12,544``."""
    value = number / 1024
    digits = 2 if value < 1 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def each(sizes: Sequence[object]) -> str:
    """One size for all axes, or one per axis: ``3``, ``3x5``."""
    if len(set(sizes)) == 1:
        return str(sizes[0])
    return "x".join(str(size) for size in sizes)


def pads(padding: Sequence[tuple[int, int]]) -> str:
    """Padding per axis, the two ends written apart where they differ: ``1``, ``0+1``, ``1x2``."""
    return each([f"{a}+{b}" if a != b else str(a) for a, b in padding])


def extent(row: Row) -> str:
    """F as used, with the dilation behind it if there is one: ``3``, ``3x5``, ``3 d2``."""
    window = row.window
    if window is None or window.everything:
        return ""
    dilated = any(d != 1 for d in window.dilation)
    return each(window.kernel) + (f" d{each(window.dilation)}" if dilated else "")


def field_of(field: Field) -> str:
    """Receptive field: ``5``, ``3x7``, ``all``; empty where there are no axes."""
    if field.size is None:
        return "all"
    return each(field.size) if field.size else ""


def parameters(row: Row) -> tuple[str, str]:
    """Number of parameters and its split: ``156`` and ``= 150+6``, weights then biases."""
    if row.shared is not None:
        return f"{row.count:,}", f"shared with #{row.shared}"
    if not row.count:
        return "", ""
    return f"{row.count:,}", f"= {row.weights:,}+{row.biases:,}" if row.biases else ""


def place(span: Span | None, main: str) -> str:
    """``3:5``, with the file's name before it when it is not the main one."""
    if span is None:
        return ""
    prefix = "" if span.source.name == main else f"{span.source.name}:"
    return f"{prefix}{span.line}:{span.column}"
