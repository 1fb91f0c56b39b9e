"""How much of a tensor a launch touches where windows do not see all of it: `Launch.touched`."""

from collections.abc import Sequence
from math import prod

from convdsl.ir.graph import Value
from convdsl.ir.op import Window


def partly(value: Value, elements: int) -> dict[Value, str]:
    """So many elements, of every sample where there are samples; nothing to say of all."""
    count = f"n * {elements}" if value.type.batched else f"{elements}"
    return {value: count} if elements < value.type.elements else {}


def seen(sizes: Sequence[int], counts: Sequence[int], window: Window) -> int:
    """Places of a map of ``sizes`` that one of ``counts`` windows along each axis sees."""
    return prod(
        len({place for places in axis for place in places}) for axis in _axes(sizes, counts, window)
    )


def seeing(sizes: Sequence[int], counts: Sequence[int], window: Window) -> int:
    """Windows that see a place of the map, and not only its padding."""
    return prod(sum(map(bool, axis)) for axis in _axes(sizes, counts, window))


def pairs(sizes: Sequence[int], counts: Sequence[int], window: Window) -> int:
    """Windows and places of theirs that lie within the map."""
    return prod(sum(map(len, axis)) for axis in _axes(sizes, counts, window))


def _axes(sizes: Sequence[int], counts: Sequence[int], window: Window) -> list[list[list[int]]]:
    """For every axis and window along it the places it sees."""
    return [
        [
            [
                place
                for tap in range(kernel)
                if 0 <= (place := number * stride - start + tap * dilation) < size
            ]
            for number in range(count)
        ]
        for size, count, kernel, stride, (start, _), dilation in zip(
            sizes,
            counts,
            window.kernel,
            window.stride,
            window.padding,
            window.dilation or (1,) * len(window.kernel),
            strict=True,
        )
    ]
