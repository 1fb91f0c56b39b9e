"""Layers that work on maps and sequences alike: arguments that are one number for every axis.

A sequence (C, L) is stored (N, L, C), so to a kernel it is a map of one row. Torch has functions of
its own for it, so the torch text depends on the number of axes, which lowering settles.
"""

from dataclasses import dataclass, field, replace

from convdsl.ir.arguments import Pair
from convdsl.ir.op import Layer, ShapeError
from convdsl.ir.types import TensorType


@dataclass(frozen=True)
class Spatial(Layer):
    """Base of layers on maps (two axes) and sequences (one).

    axes: spatial axes of the input, for the torch text only; every other rule asks the input.
    """

    axes: int = field(default=2, kw_only=True)

    def parts(self, *inputs: TensorType) -> tuple[tuple[str, Layer], ...]:
        axes = len(inputs[0].spatial)
        return () if axes in (0, self.axes) else (("", replace(self, axes=axes)),)


def axes_of(x: TensorType, help: str = "put the layer before FC, FLATTEN or GAP") -> int:
    """2 for a map, 1 for a sequence. Raises ShapeError E214 with ``help`` for a vector."""
    if x.is_vector:
        raise ShapeError("E214", "needs a map or a sequence, got {x}", help=help, x=x)
    return len(x.spatial)


def spread(value: int | Pair, axes: int, argument: str, label: str = "") -> tuple[int, ...]:
    """``value`` as one number per axis. Raises ShapeError E204 for two numbers and one axis.

    argument: name of the field, and ``label`` what it is called in messages if not that.
    """
    if isinstance(value, int):
        return (value,) * axes
    if axes == 1:
        raise two_for_one(
            argument, label or argument, "write one number, such as {label}={first}", first=value[0]
        )
    return value


def two_for_one(argument: str, label: str, help: str, **values: object) -> ShapeError:
    """E204: the argument called ``label`` has height and width where there is one axis."""
    return ShapeError(
        "E204",
        "{label} is given for height and width, but a sequence has one axis",
        help=help,
        argument=argument,
        label=label,
        **values,
    )
