"""Locally connected layers of one or two axes: all their rules, and the two gradients.

A layer's file gives its arguments: window, filters, bias. Sequences run on the loop nests as maps
of one row. No dilation and no groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size, Tail
from convdsl.ir.op import Op, ParameterSpec, Window
from convdsl.ir.tile import Tile
from convdsl.ir.types import DType, TensorType
from convdsl.ops._tiles import (
    TYPICAL_BATCH,
    depth_block,
    product_tile,
    tap_block,
    weight_gradient_tile,
)
from convdsl.ops._touched import pairs, partly, seeing, seen
from convdsl.ops._weights import Weighted
from convdsl.ops._window import (
    Padding,
    as_map,
    axis_padding,
    output_sizes,
    over_a_map,
    window_over,
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Input and output of one sample, and the window with padding in numbers."""

    x: TensorType
    y: TensorType
    window: Window

    @property
    def depth(self) -> int:
        """Weights of one filter at one position."""
        return self.x.channels * prod(self.window.kernel)

    @property
    def weight(self) -> tuple[int, ...]:
        """(P, Q, K, C, R, S): for every position what a convolution has once."""
        return (*self.y.spatial, self.y.channels, self.x.channels, *self.window.kernel)

    @property
    def weight_order(self) -> tuple[int, ...]:
        """As the kernels read it, channels last: (P, Q, K, R, S, C)."""
        axes = len(self.y.spatial)
        return (*range(axes + 1), *range(axes + 2, 2 * axes + 2), axes + 1)

    @property
    def bias_order(self) -> tuple[int, ...]:
        """(P, Q, K)."""
        return (*range(1, len(self.y.shape)), 0)

    def launch(
        self,
        function: str,
        tensors: Mapping[str, Argument],
        tile: Tile,
        programs: str,
        touched: Mapping[Value, str],
    ) -> Schedule:
        """One launch of a nest of ``kernels/local.py``."""
        window, y = over_a_map(self.window), as_map(self.y)
        launch = Launch(
            Nest("local", function),
            {
                **tensors,
                "images": Size("n"),
                "H": as_map(self.x).height,
                "W": as_map(self.x).width,
                "C": self.x.channels,
                "K": y.channels,
                "P": y.height,
                "Q": y.width,
                "R": window.kernel[0],
                "S": window.kernel[1],
                "STRIDE_H": window.stride[0],
                "STRIDE_W": window.stride[1],
                "PAD_H": window.padding[0][0],
                "PAD_W": window.padding[1][0],
                "PRECISION": "ieee",
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BLOCK_K": tile.k,
            },
            (programs,),
            tile.warps,
            tile.stages,
            touched=touched,
        )
        return Schedule((launch,))

    def touched_of_x(self, x: Value) -> dict[Value, str]:
        """`Launch.touched` of the input, of which strides may leave places out."""
        return partly(x, seen(self.x.spatial, self.y.spatial, self.window) * self.x.channels)


class LocallyConnected(Weighted):
    """Base of LOCAL and LOCAL1D, whose arguments these are."""

    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: Padding
    bias: bool

    has_epilogue = True

    def geometry(self, x: TensorType) -> Geometry:
        """The layer on ``x``. Raises ShapeError E212, E214 or E222."""
        window = window_over(x, self.kernel, self.stride, self.pad)
        return Geometry(x, x.with_shape(self.filters, *output_sizes(x, window)), window)

    def shape(self, *inputs: TensorType) -> TensorType:
        return self.geometry(inputs[0]).y

    def window(self, *inputs: TensorType) -> Window:
        return self.geometry(inputs[0]).window

    def parameters(self, *inputs: TensorType) -> dict[str, ParameterSpec]:
        """weight (P, Q, K, C, R, S) and bias (K, P, Q); on sequences without P and R."""
        geometry = self.geometry(inputs[0])
        fans = geometry.depth, self.filters * prod(geometry.window.kernel)
        units = tuple(range(len(geometry.y.shape)))  # P, Q, K
        weight = self.weight_spec(geometry.weight, *fans, geometry.weight_order, units)
        specs = {"weight": weight}
        if self.bias:
            specs["bias"] = self.bias_spec(geometry.y.shape, fans[0], geometry.bias_order)
        return specs

    def macs(self, *inputs: TensorType) -> int:
        geometry = self.geometry(inputs[0])
        return geometry.y.elements * geometry.depth

    def formulas(self, *inputs: TensorType) -> tuple[str, ...]:
        geometry = self.geometry(inputs[0])
        kernel, y = geometry.window.kernel, geometry.y
        extent = "F" if len(kernel) == 1 else "F*F" if kernel[0] == kernel[1] else "FH*FW"
        one = (f"{extent}*C1", "*".join(map(str, (*kernel, geometry.x.channels))))
        many = ("L2*K" if len(kernel) == 1 else "H2*W2*K", "*".join(map(str, y.spatial)))
        outputs = (many[0], f"{many[1]}*{y.channels}")
        each = [f"({text} + 1)" for text in one] if self.bias else one
        macs = self.macs(*inputs)
        count = macs + self.bias * y.elements
        return (
            f"parameters = {each[0]}*{outputs[0]} = {each[1]}*{outputs[1]} = {count:,}",
            f"MACs = {one[0]}*{outputs[0]} = {one[1]}*{outputs[1]} = {macs:,}",
        )

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, weight, *bias = operands
        p, r = _letters(len(self.kernel))
        patches = _patches(_padded(x, self.kernel, self.stride, self.pad), self.kernel, self.stride)
        y = f'torch.einsum("nc{p}{r},{p}kc{r}->nk{p}", {patches}, {weight})'
        return (f"{y} + {bias[0]}" if bias else y,)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        positions = geometry.y.pixels
        block_k = tap_block(geometry.x.channels, prod(geometry.window.kernel))
        tile = product_tile(TYPICAL_BATCH, self.filters, block_k, positions)
        tensors = {
            "x_ptr": x,
            "w_ptr": weight,
            "bias_ptr": bias[0] if bias else None,
            "y_ptr": tail.output,
        }
        columns = positions * -(-self.filters // tile.n)
        programs = f"triton.cdiv(n, {tile.m}) * {columns}"
        touched = geometry.touched_of_x(x)
        return geometry.launch("local_forward", tensors, tile, programs, touched)

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x, (weight, *bias) = node.inputs[0], node.parameters
        geometry = self.geometry(x.type)
        to_input = LocalGradInput(geometry)
        (dx,) = build.add(to_input, dy, parameters=(weight,), names=(f"d_{x.name}",))
        names = tuple(f"d_{parameter.name}" for parameter in node.parameters)
        gradients = build.add(LocalGradWeight(geometry, self.bias), x, dy, names=names)
        return {x: dx, **dict(zip((weight, *bias), gradients, strict=True))}


@dataclass(frozen=True)
class LocalGradInput(Op):
    """dx from (dy, weight): every pixel gathers from the positions whose window holds it."""

    geometry: Geometry
    has_epilogue = True

    @property
    def title(self) -> str:
        return "local_grad_input"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        return (self.geometry.x,)

    def reference(self, *operands: str) -> tuple[str, ...]:
        dy, weight = operands
        window, x = self.geometry.window, self.geometry.x
        p, r = _letters(len(window.kernel))
        # columns as F.fold takes them: (N, C*R*S, P*Q), here over a map with the padding
        columns = f'torch.einsum("nk{p},{p}kc{r}->nc{r}{p}", {dy}, {weight})'
        columns += f".flatten(1, {1 + len(r)}).flatten(2)"
        flat = over_a_map(window)
        sides = list(zip(as_map(x).spatial, flat.padding, strict=True))
        size = tuple(start + length + end for length, (start, end) in sides)
        crop = [f"{start}:{start + length}" for length, (start, _) in sides]
        if not x.is_map:
            crop[0] = "0"
        folded = f"F.fold({columns}, {size}, {flat.kernel}, stride={flat.stride})"
        return (f"{folded}[:, :, {', '.join(crop)}]",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        geometry, dy, weight = self.geometry, node.inputs[0], node.parameters[0]
        channels, pixels = geometry.x.channels, geometry.x.pixels
        tile = product_tile(TYPICAL_BATCH, channels, depth_block(geometry.y.channels), pixels)
        tensors = {"dy_ptr": dy, "w_ptr": weight, "dx_ptr": tail.output}
        sizes = geometry.x.spatial, geometry.y.spatial, geometry.window
        filters = geometry.y.channels
        # nothing is multiplied with what lies in the padding, weights or dy
        touched = {
            **partly(dy, seeing(*sizes) * filters),
            **partly(weight, pairs(*sizes) * filters * channels),
        }
        programs = f"triton.cdiv(n, {tile.m}) * {pixels * -(-channels // tile.n)}"
        return geometry.launch("local_grad_input", tensors, tile, programs, touched)


@dataclass(frozen=True)
class LocalGradWeight(Op):
    """dw, and db if ``bias``, from (x, dy): sums over the batch at every position."""

    geometry: Geometry
    bias: bool

    @property
    def title(self) -> str:
        return "local_grad_weight"

    def infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        shapes = (self.geometry.weight, self.geometry.y.shape)[: 1 + self.bias]
        return tuple(TensorType(shape, DType.FLOAT32, batched=False) for shape in shapes)

    def reference(self, *operands: str) -> tuple[str, ...]:
        x, dy = operands
        window = self.geometry.window
        p, r = _letters(len(window.kernel))
        sides = ", ".join(f"{start}, {end}" for start, end in reversed(window.padding))
        patches = _patches(f"F.pad({x}, ({sides}))", window.kernel, window.stride)
        dw = f'torch.einsum("nc{p}{r},nk{p}->{p}kc{r}", {patches}, {dy})'
        return (dw, f"{dy}.sum(0)")[: 1 + self.bias]

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        (x, dy), (dw, *db) = node.inputs, node.outputs
        geometry = self.geometry
        tile = weight_gradient_tile(geometry.y.channels, geometry.depth)
        tiles = -(-geometry.y.channels // tile.m) * -(-geometry.depth // tile.n)
        tensors = {"x_ptr": x, "dy_ptr": dy, "dw_ptr": dw, "db_ptr": db[0] if db else None}
        programs = str(geometry.y.pixels * tiles)
        touched = geometry.touched_of_x(x)
        return geometry.launch("local_grad_weight", tensors, tile, programs, touched)


def _letters(axes: int) -> tuple[str, str]:
    """Axes of the positions and of the taps in an einsum: ``pq`` and ``rs``, or ``q`` and ``s``."""
    return "pq"[-axes:], "rs"[-axes:]


def _patches(x: str, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
    """Torch text of the windows over the padded ``x``: (N, C, P, Q, R, S)."""
    return x + "".join(
        f".unfold({axis}, {size}, {step})"
        for axis, (size, step) in enumerate(zip(kernel, stride, strict=True), 2)
    )


def _padded(x: str, kernel: tuple[int, ...], stride: tuple[int, ...], pad: Padding) -> str:
    """Torch text of ``x`` with the zeros around it, whatever its size."""
    sides: list[str] = []
    for number, (size, step) in reversed(list(enumerate(zip(kernel, stride, strict=True)))):
        if pad == "same" and step > 1:
            total = f"max(0, -{x}.shape[{number + 2}] % {step} + {size - step})"
            sides += [f"{total} // 2", f"({total} + 1) // 2"]
        else:
            side = axis_padding(pad, 1, size, step) if isinstance(pad, str) else pad[number]
            sides += map(str, side)
    return x if set(sides) == {"0"} else f"F.pad({x}, ({', '.join(sides)}))"
