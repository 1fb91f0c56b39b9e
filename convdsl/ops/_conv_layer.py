"""What the layers that convolve have in common: shapes, counts, torch text, launches, gradients.

A layer file gives names, arguments and the `Geometry` on an input, over maps or sequences.
"""

from abc import abstractmethod
from dataclasses import replace

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op, ParameterSpec, Window
from convdsl.ir.types import TensorType
from convdsl.ops import _conv_launches as launches
from convdsl.ops import _rows_products as rows_products
from convdsl.ops import _stem as stem
from convdsl.ops._conv_gradients import ConvGradInput, ConvGradWeight
from convdsl.ops._convolution import Geometry, torch_options, torch_padded
from convdsl.ops._weights import Weighted
from convdsl.ops._window import Padding, extent, window_over


class Convolution(Weighted):
    """Base of the convolving layers; the annotations are fields they all have."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: Padding
    dilation: tuple[int, ...]
    bias: bool | str

    has_epilogue = True
    output_is_free = True

    @abstractmethod
    def geometry(self, x: TensorType) -> Geometry:
        """The convolution of ``x``. Raises ShapeError E212, E213, E214 or E222."""

    @abstractmethod
    def torch_groups(self, x: str) -> int | str:
        """The number of groups for torch, which may depend on the tensor named ``x``."""

    @property
    @abstractmethod
    def letters(self) -> tuple[str, str]:
        """Channels a filter sees and number of filters, as formulas name them: ("C1", "K")."""

    def shape(self, *inputs: TensorType) -> TensorType:
        return self.geometry(inputs[0]).y

    def window(self, *inputs: TensorType) -> Window:
        return self.geometry(inputs[0]).window

    def weight_order(self, geometry: Geometry) -> tuple[int, ...]:
        """Order of the weight's axes in memory."""
        return geometry.channels_last

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        geometry = self.geometry(inputs[0])
        fans = geometry.group_channels * geometry.taps, geometry.group_filters * geometry.taps
        order = self.weight_order(geometry)
        specs = {"weight": self.weight_spec(geometry.weight, *fans, permute=order)}
        if self.bias:
            specs["bias"] = self.bias_spec(geometry.weight[:1], fans[0])
        return specs

    def macs(self, *inputs: TensorType) -> int:
        geometry = self.geometry(inputs[0])
        return geometry.y.elements * geometry.group_channels * geometry.taps

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        geometry = self.geometry(inputs[0])
        filters, channels, *extents = geometry.weight
        depth, count = self.letters
        names = ["F"] * len(extents) if len(set(extents)) == 1 else ["FH", "FW"]
        sizes = ["H2", "W2"] if len(extents) == 2 else ["L2"]
        formula, text = "*".join(names), "*".join(map(str, extents))
        if depth:
            formula, text = f"{formula}*{depth}", f"{text}*{channels}"
        places = "*".join(map(str, geometry.y.spatial))
        macs = (
            f"MACs = {formula} * {'*'.join(sizes)}*{count} = {text} * {places}*{filters} "
            f"= {self.macs(*inputs):,}"
        )
        if self.bias:
            formula, text = f"({formula} + 1)", f"({text} + 1)"
        total = (channels * geometry.taps + bool(self.bias)) * filters
        return (f"parameters = {formula}*{count} = {text}*{filters} = {total:,}", macs)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, *parameters = operands
        axes = len(self.kernel)
        window = self._window_anywhere()
        # same with a stride is the only padding that asks for the size
        if self.pad == "same" and self.stride != (1,) * axes:
            pads = [
                f"for t in (max(0, {s} * -(-{x}.shape[{axis}] // {s}) - {x}.shape[{axis}]"
                f" + {extent(f, d) - s}),) for p in (t // 2, t - t // 2)"
                for axis, f, s, d in zip(
                    range(2, 2 + axes), self.kernel, self.stride, self.dilation, strict=True
                )
            ]
            sides = ", ".join(f"*(p {pad})" for pad in reversed(pads))
            padded = f"F.pad({x}, [{sides}])"
            window = replace(window, padding=((0, 0),) * axes)
        else:
            padded = torch_padded(x, window)
        arguments = ", ".join((padded, *parameters))
        options = torch_options(window, self.torch_groups(x))
        return (f"F.conv{axes}d({arguments}{options})",)

    def _window_anywhere(self) -> Window:
        """The window where its padding does not depend on the size of the map."""
        some = TensorType((1,) * (1 + len(self.kernel)))
        return window_over(some, self.kernel, self.stride, self.pad, self.dilation)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry, of_filters = self.geometry(x.type), bias[0] if bias else None
        if (padded := stem.forward(geometry, x, weight, of_filters, tail)) is not None:
            return padded
        forward = rows_products.forward if tail.made else launches.forward
        return Schedule((forward(geometry, x, weight, of_filters, tail),))

    def prologue_places(self, *inputs: TensorType) -> tuple[int, ...]:
        return (0,) if self.geometry(inputs[0]).is_product else ()

    def gradients(self, geometry: Geometry, bias: bool) -> tuple[Op, Op]:
        """The ops that give (dx) of (dy, weight) and (dw[, db]) of (x, dy)."""
        return ConvGradInput(geometry), ConvGradWeight(geometry, bias)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, *bias) = node.inputs[0], node.parameters
        to_input, to_weight = self.gradients(self.geometry(x.type), bool(bias))
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        names = tuple(f"d_{parameter.name}" for parameter in node.parameters)
        gradients = build.add(to_weight, x, dy, names=names)
        return {x: dx, **dict(zip((weight, *bias), gradients, strict=True))}
