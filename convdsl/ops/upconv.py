"""UPCONV: transposed convolution, on the loop nests of a convolution with their roles exchanged."""

from dataclasses import dataclass
from typing import Any, cast

from convdsl.ir.arguments import ArgumentError, Pair, field, flag, pair, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Schedule, Tail
from convdsl.ir.op import Op, ParameterSpec, ShapeError, Window, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops import _conv_launches as launches
from convdsl.ops._bias_gradient import BiasGradient
from convdsl.ops._convolution import Geometry, check_groups, torch_options
from convdsl.ops._weights import Weighted
from convdsl.ops._window import expect_axes, extent


def _cut(value: Any) -> Pair:
    """As ``pair(0)``, with an answer to who writes the words of a convolution's padding."""
    try:
        return cast(Pair, pair(0)(value))
    except ArgumentError as error:
        raise ArgumentError(f"{error} (same, half, valid and full belong to CONV)") from None


@op("UPCONV")
class UpConv(Weighted):
    """Transposed convolution: W2 = (W1 - 1)S - 2P + F + output_padding (Zeiler et al., 2010).

    Every input adds its value times the filter to the output, S places from its neighbour's: the
    gradient of a convolution to its input, as a layer of its own. U-Net's up-convolution is F=2,
    S=2, which doubles height and width. The weight is (C, K/groups, F, F), as torch has it.
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: Pair = field((2, 2), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field(
        (2, 2), letter="S", convert=pair(1), doc="step between two inputs in the output"
    )
    pad: Pair = field(
        (0, 0), letter="P", convert=_cut, doc="rows and columns cut off around the output"
    )
    output_padding: Pair = field(
        (0, 0),
        convert=pair(0),
        doc="rows and columns more at the bottom and right, fewer than the stride or dilation",
    )
    dilation: Pair = field((1, 1), convert=pair(1), doc="distance between the taps of a filter")
    groups: int = field(1, convert=whole(1), doc="independent shares of channels and filters")
    bias: bool = field(True, convert=flag, doc="add a learned number per filter")

    has_epilogue = True
    aliases = ("DECONV", "DECONVOLUTION", "CONVTRANSPOSE", "TRANSPOSEDCONV")
    examples = (
        ("3@4x5", "UPCONV(2)"),
        ("4@5x3", "UPCONV(6, F=3, S=2, P=1, output_padding=1, groups=2)"),
        ("2@4x3", "UPCONV(3, F=4x3, S=1x3, P=1x0, dilation=2, bias=false)"),
        ("2@3x4", "UPCONV(3, F=2, S=3)"),
        ("2@3x3", "UPCONV(2, F=2, S=2, dilation=3, output_padding=2)"),
        ("3@4x4", "UPCONV(5, F=1, S=1)"),
    )

    def geometry(self, x: TensorType) -> Geometry:
        """The convolution this one transposes: from the output to the input.

        Raises ShapeError E212, E213, E214 or E222.
        """
        expect_axes(x, 2)
        check_groups(self.groups, x.channels, self.filters)
        if self.max_norm is not None and self.groups > 1:
            raise ShapeError(
                "E204",
                "max_norm is not defined for groups={groups}: outputs share an axis of the weight",
                help="leave max_norm or groups out",
                argument="max_norm",
                groups=self.groups,
            )
        axes = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(more >= max(stride, dilation) for more, stride, dilation in axes):
            raise ShapeError(
                "E222",
                "output_padding must be smaller than S or the dilation",
                help="make it at most {most}",
                argument="output_padding",
                most=min(max(s, d) for s, d in zip(self.stride, self.dilation, strict=True)) - 1,
            )
        sizes = tuple(
            (size - 1) * stride - 2 * pad + extent(kernel, dilation) + more
            for size, stride, pad, kernel, dilation, more in zip(
                x.spatial,
                self.stride,
                self.pad,
                self.kernel,
                self.dilation,
                self.output_padding,
                strict=True,
            )
        )
        if min(sizes) < 1:
            raise ShapeError(
                "E212",
                "P cuts off all of the output: (W1 - 1)S + F - 2P leaves {height} x {width}",
                help="use a smaller P",
                argument="pad",
                height=sizes[0],
                width=sizes[1],
            )
        window = Window(self.kernel, self.stride, tuple((p, p) for p in self.pad), self.dilation)
        weight = (x.channels, self.filters // self.groups, *self.kernel)
        return Geometry(x.with_shape(self.filters, *sizes), x, weight, window, self.groups)

    def shape(self, *inputs: TensorType) -> TensorType:
        return self.geometry(inputs[0]).x

    def window(self, *inputs: TensorType) -> Window:
        pads = tuple((p, p) for p in self.pad)
        return Window(self.kernel, self.stride, pads, self.dilation, transposed=True)

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        geometry = self.geometry(inputs[0])
        # taps count as if S were 1: Glorot's start is then the one other frameworks have
        fan_in = geometry.group_filters * geometry.taps
        fan_out = geometry.group_channels * geometry.taps
        order = geometry.channels_last
        specs = {"weight": self.weight_spec(geometry.weight, fan_in, fan_out, order, (1,))}
        if self.bias:
            specs["bias"] = self.bias_spec((self.filters,), fan_in)
        return specs

    def macs(self, *inputs: TensorType) -> int:
        geometry = self.geometry(inputs[0])
        return geometry.y.elements * geometry.group_channels * geometry.taps

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        channels, filters, height, width = self.geometry(inputs[0]).weight
        names, text = ("F*F" if height == width else "FH*FW"), f"{height}*{width}"
        share = "K" if self.groups == 1 else "K/groups"
        weights = height * width * channels * filters
        parameters = f"{names}*C1*{share}{' + K' if self.bias else ''}"
        numbers = f"{text}*{channels}*{filters}{f' + {self.filters}' if self.bias else ''}"
        x = inputs[0]
        return (
            f"parameters = {parameters} = {numbers} = {weights + self.bias * self.filters:,}",
            f"MACs = {names}*C1*{share} * H1*W1 = {text}*{channels}*{filters} * "
            f"{x.height}*{x.width} = {self.macs(*inputs):,}",
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        return (_transposed(self, ", ".join(operands)),)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        of_filters = bias[0] if bias else None
        return Schedule((launches.grad_input(geometry, x, weight, of_filters, tail),))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        to_input = UpConvGradInput(geometry)
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        to_weight = UpConvGradWeight(self, geometry)
        (dw,) = build.add(to_weight, x, dy, names=(f"d_{weight.name}",))
        gradients = {x: dx, weight: dw}
        for of_filters in bias:
            names = (f"d_{of_filters.name}",)
            (gradients[of_filters],) = build.add(BiasGradient(False), dy, names=names)
        return gradients


def _transposed(layer: UpConv, operands: str) -> str:
    """The torch expression of the layer."""
    pads = tuple((p, p) for p in layer.pad)
    window = Window(layer.kernel, layer.stride, pads, layer.dilation)
    more = layer.output_padding
    output_padding = f", output_padding={more}" if more != (0, 0) else ""
    return f"F.conv_transpose2d({operands}{torch_options(window, layer.groups)}{output_padding})"


@dataclass(frozen=True)
class UpConvGradInput(Op):
    """dx from (dy, weight): the plain convolution of dy."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "upconv_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.geometry.y,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, weight = operands
        options = torch_options(self.geometry.window, self.geometry.groups)
        height, width = self.geometry.y.spatial
        # an output padding as wide as the stride leaves room for windows that no input has
        return (f"F.conv2d({dy}, {weight}{options})[:, :, :{height}, :{width}]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy, weight = node.operands
        return Schedule((launches.forward(self.geometry, dy, weight, None, tail),))


@dataclass(frozen=True)
class UpConvGradWeight(Op):
    """dw from (x, dy): the gradient of the plain convolution's weight, x and dy exchanged."""

    of: UpConv
    geometry: Geometry

    @property
    def title(self) -> str:
        return "upconv_grad_weight"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (TensorType(self.geometry.weight, DType.FLOAT32, batched=False),)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy = operands
        forward = _transposed(self.of, f"{x}, w")
        # linear in the weight, so its gradient does not depend on the place it is taken at
        zeros = f"{dy}.new_zeros({self.geometry.weight})"
        return (f"torch.func.vjp(lambda w: {forward}, {zeros})[1]({dy})[0]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, dy = node.inputs
        return launches.grad_weight(self.geometry, dy, x, (tail.output,), (), tail)
