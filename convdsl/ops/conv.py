"""CONV and the two gradients of a convolution."""

from dataclasses import dataclass, replace
from math import gcd

from convdsl.ir.arguments import Pair, field, flag, padding, pair, whole
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import ZEROS, Layer, Op, ParameterSpec, ShapeError, Window, glorot_uniform, op
from convdsl.ir.types import DType, TensorType
from convdsl.ops._convolution import Geometry, torch_options, torch_padded, torch_padding
from convdsl.ops._tiles import (
    TYPICAL_BATCH,
    depth_block,
    product_tile,
    splits,
    tap_block,
    weight_gradient_tile,
)
from convdsl.ops._window import Padding, extent, output_sizes, window_over

#: elements one program of the ordered sum adds up
REDUCE_BLOCK = 64


@op("CONV")
class Conv(Layer):
    """Slide K learned filters of extent F over the map: W2 = (W1 - F + 2P)/S + 1.

    y[k,p,q] = b[k] + sum of w[k,c,r,s] * x[c, p*S - P + r, q*S - P + s] (LeCun et al., 1998).
    With ``groups`` each share of the filters sees its own share of the channels (AlexNet, 2012).
    """

    filters: int = field(letter="K", convert=whole(1), doc="number of filters: output channels")
    kernel: Pair = field((3, 3), letter="F", convert=pair(1), doc="extent of a filter, F or HxW")
    stride: Pair = field((1, 1), letter="S", convert=pair(1), doc="step between two places")
    pad: Padding = field(
        "half",
        letter="P",
        convert=padding("same", "half", "valid", "full"),
        doc="zeros around the map: a number, HxW, ((top, bottom), (left, right)); half = (F-1)/2, "
        "same = output of ceil(W/S), valid = 0, full = F-1",
    )
    dilation: Pair = field((1, 1), convert=pair(1), doc="distance between the taps of a filter")
    groups: int = field(1, convert=whole(1), doc="independent shares of channels and filters")
    bias: bool = field(True, convert=flag, doc="add a learned number per filter")

    has_epilogue = True
    can_pool = True
    examples = (
        ("3@8x8", "CONV(4, F=3)"),
        ("4@9x7", "CONV(6, F=3x2, S=2, P=same, groups=2)"),
        ("2@11x9", "CONV(3, F=3, S=1x2, P=valid, dilation=2, bias=false)"),
    )

    def geometry(self, x: TensorType) -> Geometry:
        """The convolution of ``x``. Raises ShapeError E212, E213, E214 or E222."""
        window = window_over(x, self.kernel, self.stride, self.pad, self.dilation)
        for count, what in ((x.channels, "input channels"), (self.filters, "filters")):
            if count % self.groups:
                raise ShapeError(
                    "E213",
                    "groups={groups} does not divide the {count} {what}",
                    help="choose groups that divide both the input channels and K",
                    argument="groups",
                    groups=self.groups,
                    count=count,
                    what=what,
                )
        y = x.with_shape(self.filters, *output_sizes(x, window))
        weight = (self.filters, x.channels // self.groups, *self.kernel)
        return Geometry(x, y, weight, window, self.groups)

    def shape(self, *inputs: TensorType) -> TensorType:
        return self.geometry(inputs[0]).y

    def window(self, *inputs: TensorType) -> Window:
        return self.geometry(inputs[0]).window

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        geometry = self.geometry(inputs[0])
        start = glorot_uniform(
            geometry.group_channels * geometry.taps, geometry.group_filters * geometry.taps
        )
        specs = {"weight": ParameterSpec(geometry.weight, start, permute=(0, 2, 3, 1))}
        if self.bias:
            specs["bias"] = ParameterSpec((self.filters,), ZEROS)
        return specs

    def macs(self, *inputs: TensorType) -> int:
        geometry = self.geometry(inputs[0])
        return geometry.y.elements * geometry.group_channels * geometry.taps

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        geometry = self.geometry(inputs[0])
        filters, channels, height, width = geometry.weight
        extent = "F*F" if height == width else "FH*FW"
        depth = "C1" if self.groups == 1 else "C1/groups"
        filter_formula, filter_text = f"{extent}*{depth}", f"{height}*{width}*{channels}"
        y = geometry.y
        macs = (
            f"MACs = {filter_formula} * H2*W2*K = {filter_text} * {y.height}*{y.width}*{filters} "
            f"= {self.macs(*inputs):,}"
        )
        count = (channels * height * width + self.bias) * filters
        if not self.bias:
            return (f"parameters = {filter_formula}*K = {filter_text}*{filters} = {count:,}", macs)
        return (
            f"parameters = ({filter_formula} + 1)*K = ({filter_text} + 1)*{filters} = {count:,}",
            macs,
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, *parameters = operands
        if self.pad == "same" and self.stride != (1, 1):  # the only padding that asks for the size
            axes = zip(
                (3, 2), self.kernel[::-1], self.stride[::-1], self.dilation[::-1], strict=True
            )
            pads = [
                f"for t in (max(0, {s} * -(-{x}.shape[{a}] // {s}) - {x}.shape[{a}]"
                f" + {extent(f, d) - s}),) for p in (t // 2, t - t // 2)"
                for a, f, s, d in axes
            ]
            x = f"F.pad({x}, [*(p {pads[0]}), *(p {pads[1]})])"
            window = replace(self._window_anywhere(), padding=((0, 0), (0, 0)))
        else:
            window = self._window_anywhere()
            x = torch_padded(x, window)
        arguments = ", ".join((x, *parameters))
        return (f"F.conv2d({arguments}{torch_options(window, self.groups)})",)

    def _window_anywhere(self) -> Window:
        """The window where its padding does not depend on the size of the map."""
        some = TensorType((1, 1, 1))
        return window_over(some, self.kernel, self.stride, self.pad, self.dilation)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        pool_h, pool_w = tail.pool or (1, 1)
        height, width = geometry.y.spatial
        pixels = (height // pool_h * pool_h) * (width // pool_w * pool_w)
        columns, channels = geometry.group_filters, geometry.group_channels
        block_k = tap_block(channels, geometry.taps)
        tile = product_tile(TYPICAL_BATCH * pixels, columns, block_k, geometry.groups)
        tiles = -(-columns // tile.n) * geometry.groups
        launch = Launch(
            Nest("conv_forward", "conv_forward"),
            {
                "x_ptr": x,
                "w_ptr": weight,
                "bias_ptr": bias[0] if bias else None,
                "y_ptr": tail.output,
                "index_ptr": tail.index,
                "rows": Size(f"n * {pixels}"),
                **geometry.constants,
                "POOL_H": pool_h,
                "POOL_W": pool_w,
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_K": tile.k,
            },
            (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}",),
            tile.warps,
            tile.stages,
        )
        return Schedule((launch,))

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        to_input = ConvGradInput(geometry)
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        names = tuple(f"d_{parameter.name}" for parameter in node.parameters)
        gradients = build.add(ConvGradWeight(geometry, self.bias), x, dy, names=names)
        return {x: dx, **dict(zip((weight, *bias), gradients, strict=True))}


@dataclass(frozen=True)
class ConvGradInput(Op):
    """dx from (dy, weight): the full convolution of dy with the filters turned by 180 degrees."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "conv_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.geometry.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, weight = operands
        window, x = self.geometry.window, self.geometry.x
        (top, bottom), (left, right) = window.padding
        height, width, crop = x.height, x.width, ""
        if torch_padding(window) is None:
            height, width = height + top + bottom, width + left + right
            crop = f"[:, :, {top}:{top + x.height}, {left}:{left + x.width}]"
        size = f"({dy}.shape[0], {x.channels}, {height}, {width})"
        options = torch_options(window, self.geometry.groups)
        return (f"torch.nn.grad.conv2d_input({size}, {weight}, {dy}{options}){crop}",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        geometry, window = self.geometry, self.geometry.window
        stride_h, stride_w = window.stride
        pixels = -(-geometry.x.height // stride_h) * -(-geometry.x.width // stride_w)
        columns = geometry.group_channels
        programs = geometry.groups * stride_h * stride_w
        block_k = depth_block(geometry.group_filters)
        tile = product_tile(TYPICAL_BATCH * pixels, columns, block_k, programs)
        tiles = -(-columns // tile.n) * geometry.groups
        launch = Launch(
            Nest("conv_grad_input", "conv_grad_input"),
            {
                "dy_ptr": node.inputs[0],
                "w_ptr": node.parameters[0],
                "dx_ptr": tail.output,
                "rows": Size(f"n * {pixels}"),
                **geometry.constants,
                "PERIOD_H": stride_h // gcd(stride_h, window.dilation[0]),
                "PERIOD_W": stride_w // gcd(stride_w, window.dilation[1]),
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_K": tile.k,
            },
            (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}", str(stride_h * stride_w)),
            tile.warps,
            tile.stages,
        )
        return Schedule((launch,))


@dataclass(frozen=True)
class ConvGradWeight(Op):
    """dw, and db if ``bias``, from (x, dy): the convolution of x with dy, and the sum of dy."""

    geometry: Geometry
    bias: bool

    @property
    def title(self) -> str:
        return "conv_grad_weight"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        shapes = (self.geometry.weight, self.geometry.weight[:1])[: 1 + self.bias]
        return tuple(TensorType(shape, DType.FLOAT32, batched=False) for shape in shapes)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy = operands
        window, weight = self.geometry.window, self.geometry.weight
        options = torch_options(window, self.geometry.groups)
        padded = torch_padded(x, window)
        dw = f"torch.nn.grad.conv2d_weight({padded}, {weight}, {dy}{options})"
        return (dw, f"{dy}.sum((0, 2, 3))")[: 1 + self.bias]

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        geometry = self.geometry
        (x, dy), (dw, *db) = node.inputs, node.outputs
        filters, taps, channels = geometry.weight[0], geometry.taps, geometry.group_channels
        tile = weight_gradient_tile(geometry.group_filters, taps * channels)
        tiles = (
            -(-geometry.group_filters // tile.m) * -(-taps * channels // tile.n) * geometry.groups
        )
        split = splits(tiles, TYPICAL_BATCH * geometry.pixels)
        size = filters * taps * channels + (filters if self.bias else 0)
        partial = Value(f"{dw.name}_partial", TensorType((split, size), DType.FLOAT32, False))
        rows = Size(f"n * {geometry.pixels}")
        shares = Launch(
            Nest("conv_grad_weight", "conv_grad_weight"),
            {
                "x_ptr": x,
                "dy_ptr": dy,
                "partial_ptr": partial,
                "rows": rows,
                **geometry.constants,
                "BIAS": self.bias,
                "SPLIT": split,
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_K": tile.k,
            },
            (str(tiles), str(split)),
            tile.warps,
            tile.stages,
        )
        total = Launch(
            Nest("reduce", "sum_partials"),
            {
                "partial_ptr": partial,
                "dw_ptr": dw,
                "db_ptr": db[0] if db else None,
                "K": filters,
                "C": channels,
                "TAPS": taps,
                "SPLIT": split,
                "BLOCK": REDUCE_BLOCK,
            },
            (str(-(-size // REDUCE_BLOCK)),),
        )
        return Schedule((shares, total), (partial,))
