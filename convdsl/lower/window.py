"""The rows and columns a sliding window never reaches, because (W-F+2P)/S is not whole."""

from math import floor

from convdsl.ir.op import Window
from convdsl.ir.types import TensorType

_AXES = {1: ("position",), 2: ("row", "column")}


def dropped(window: Window | None, x: TensorType, strict: bool = False) -> str | None:
    """What is left out of ``x``, with the fraction: ``(7-3+0)/3+1 = 2.33: drops 1 column``.

    None if nothing is, if the window rounds up, or if windows differ. Where only padding is left
    out (a 7x7 window with S=2, P=3 over 224), or no more than between any two windows (1x1 with
    S=2), only ``strict`` speaks of it. Axes with the same numbers share one fraction.
    """
    if window is None or window.everything or window.ceil or window.transposed or window.uneven:
        return None
    words = _AXES.get(len(x.spatial), ())
    by_fraction: dict[str, list[str]] = {}
    # Columns first: the lectures' formula speaks of the width.
    for axis, word in reversed(list(enumerate(words))):
        pads, stride = sum(window.padding[axis]), window.stride[axis]
        extent = window.dilation[axis] * (window.kernel[axis] - 1) + 1
        room = x.spatial[axis] - extent + pads
        if room < 0 or room % stride == 0:
            continue
        size = inexact(room, stride)
        gap = max(0, stride - extent)  # left out between any two windows, so no loss at the end
        unseen = room % stride - window.padding[axis][1]
        if unseen <= gap and not strict:
            continue
        count = unseen if unseen > 0 else room % stride
        noun = word if count == 1 else f"{word}s"
        fraction = f"({x.spatial[axis]}-{extent}+{pads})/{stride}+1 = {size}"
        by_fraction.setdefault(fraction, []).append(f"{count} {noun}")
    parts = [f"{fraction}: drops {' and '.join(lost)}" for fraction, lost in by_fraction.items()]
    return "; ".join(parts) or None


def inexact(room: int, stride: int) -> str:
    """room/stride + 1, rounded down so that it never looks whole."""
    text = f"{floor(room * 100 / stride) / 100 + 1:.2f}"
    return text if not text.endswith("0") or text.endswith(".00") else text[:-1]
