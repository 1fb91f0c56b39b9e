"""The sizes of one convolution, and what follows: constants of the loop nests, torch text.

Shared by the layer and its two gradients; decides nothing about tiles or launches.
"""

from dataclasses import dataclass

from convdsl.ir.arguments import Pair
from convdsl.ir.launch import Argument
from convdsl.ir.op import Window
from convdsl.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Geometry:
    """Maps without batch, weight (K, C/groups, R, S), the window with padding in numbers."""

    x: TensorType
    y: TensorType
    weight: tuple[int, int, int, int]
    window: Window
    groups: int

    @property
    def pixels(self) -> int:
        """Pixels of the output of one image."""
        return self.y.pixels

    @property
    def group_filters(self) -> int:
        return self.weight[0] // self.groups

    @property
    def group_channels(self) -> int:
        return self.weight[1]

    @property
    def taps(self) -> int:
        return self.weight[2] * self.weight[3]

    @property
    def constants(self) -> dict[str, Argument]:
        """The compile-time constants that all loop nests of a convolution have."""
        window = self.window
        return {
            "H": self.x.height,
            "W": self.x.width,
            "C": self.x.channels,
            "K": self.y.channels,
            "P": self.y.height,
            "Q": self.y.width,
            "R": window.kernel[0],
            "S": window.kernel[1],
            "STRIDE_H": window.stride[0],
            "STRIDE_W": window.stride[1],
            "PAD_H": window.padding[0][0],
            "PAD_W": window.padding[1][0],
            "DILATION_H": window.dilation[0],
            "DILATION_W": window.dilation[1],
            "GROUPS": self.groups,
            "PRECISION": "ieee",
        }


def torch_padding(window: Window) -> Pair | None:
    """Padding torch's own convolution can do, equal at both ends of an axis; else None."""
    (top, bottom), (left, right) = window.padding
    return (top, left) if (top, left) == (bottom, right) else None


def torch_padded(x: str, window: Window) -> str:
    """Torch expression of ``x`` with the padding that torch's convolution cannot do."""
    (top, bottom), (left, right) = window.padding
    return x if torch_padding(window) else f"F.pad({x}, ({left}, {right}, {top}, {bottom}))"


def torch_options(window: Window, groups: int) -> str:
    """Keyword arguments for a torch convolution, only those that differ from the defaults."""
    options = {
        "stride": (window.stride, (1, 1)),
        "padding": (torch_padding(window) or (0, 0), (0, 0)),
        "dilation": (window.dilation, (1, 1)),
        "groups": (groups, 1),
    }
    return "".join(f", {name}={v}" for name, (v, default) in options.items() if v != default)
