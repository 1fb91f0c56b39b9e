"""UPSAMPLE and the gradient of its bilinear form.

The nearest form needs no nest of its own: it is the gradient of a sum pooling whose windows lie
side by side, and that pooling is its gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from convdsl.ir.arguments import Pair, choice, field, flag, one_or, pair
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Argument, Nest, Schedule, Tail
from convdsl.ir.op import ShapeError, Window, op
from convdsl.ir.types import TensorType
from convdsl.ops._axes import Spatial, axes_of, spread
from convdsl.ops._map_gradient import MapGradient
from convdsl.ops._rows import block_launch
from convdsl.ops._sum_pooling import sum_launch
from convdsl.ops._window import as_map


@op("UPSAMPLE")
class Upsample(Spatial):
    """The map enlarged by whole factors: W2 = scale*W1, as torch's F.interpolate.

    nearest repeats every number; bilinear (on a sequence linear) mixes the nearest two along each
    axis, with output pixel p at the input's (p + 1/2)/scale - 1/2, at least 0, or at
    p*(W1 - 1)/(W2 - 1) with align_corners.
    """

    scale: int | Pair = field(2, convert=one_or(pair(1)), doc="whole factor, one number or HxW")
    mode: str = field(
        "nearest", convert=choice("nearest", "bilinear"), doc="how places between are filled"
    )
    align_corners: bool = field(
        False, convert=flag, doc="of mode=bilinear: the outermost pixels keep their places"
    )
    has_epilogue = True
    aliases = ("UP", "UPSAMPLING", "INTERPOLATE", "RESIZE")
    examples = (
        ("3@4x5", "UPSAMPLE"),
        ("2@3x2", "UPSAMPLE(3x1)"),
        ("130@2x1", "UPSAMPLE(2, mode=bilinear)"),
        ("2@4x3", "UPSAMPLE(3x2, mode=bilinear)"),
        ("2@4x3", "UPSAMPLE(2x5, mode=bilinear, align_corners=true)"),
        ("2@1x2", "UPSAMPLE(2, mode=bilinear, align_corners=true)"),
        ("3@5", "UPSAMPLE(2)"),
        ("3@5", "UPSAMPLE(3, mode=bilinear)"),
        ("3@4", "UPSAMPLE(4, mode=bilinear, align_corners=true)"),
    )

    def factors(self, axes: int) -> tuple[int, ...]:
        """The factor of every axis. Raises ShapeError E204."""
        return spread(self.scale, axes, "scale")

    def shape(self, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        factors = self.factors(axes_of(x))
        if self.align_corners and self.mode != "bilinear":
            raise ShapeError(
                "E204",
                "align_corners has no meaning for mode={mode}",
                help="write mode=bilinear, or leave align_corners out",
                argument="align_corners",
                mode=self.mode,
            )
        return x.with_shape(x.channels, *(f * s for f, s in zip(factors, x.spatial, strict=True)))

    def window(self, *inputs: TensorType) -> Window:
        """That of the transposed convolution it is, by W2 = (W1 - 1)*scale + F - 2P."""
        factors = self.factors(axes_of(inputs[0]))
        kernel, sides = factors, ((0, 0),) * len(factors)
        if self.mode == "bilinear":
            kernel = tuple(2 * f for f in factors)
            sides = tuple((f // 2, f - f // 2) for f in factors)
        return Window(kernel, factors, sides, (1,) * len(factors), transposed=True)

    def is_identity(self, training: bool) -> bool:
        return self.scale in (1, (1, 1))

    def reference(self, *operands: str) -> tuple[str, ...]:
        options = f'mode="{self.mode}"'
        if self.mode == "bilinear":
            mode = "bilinear" if self.axes == 2 else "linear"
            options = f'mode="{mode}", align_corners={self.align_corners}'
        factors = self.factors(self.axes)
        scale = factors if self.axes == 2 else factors[0]
        return (f"F.interpolate({operands[0]}, scale_factor={scale}, {options})",)

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        x = node.inputs[0]
        if self.mode == "nearest":
            return self.repeat("sum_pool_gradient", x, node.output.type, x.type, tail)
        return bilinear_launch("bilinear", x, tail.output, self.coordinates(x.type))

    def repeat(
        self, function: str, given: Value, large: TensorType, small: TensorType, tail: Tail
    ) -> Schedule:
        """Sums over windows side by side (``sum_pool``) or their gradient, which repeats."""
        factors = self.factors(len(small.spatial))
        ones = (1,) * len(factors)
        window = Window(factors, factors, ((0, 0),) * len(factors), ones)
        if function == "sum_pool":
            tensors = {"x_ptr": given, "w_ptr": None, "y_ptr": tail.output}
            return sum_launch(function, tensors, large, small, window, "none", NORM=False)
        tensors = {"dy_ptr": given, "w_ptr": None, "x_ptr": None, "y_ptr": None}
        tensors["dx_ptr"] = tail.output
        return sum_launch(function, tensors, large, small, window, "none")

    def coordinates(self, x: TensorType) -> dict[str, int]:
        """The nests' A, B and D: output place p lies at the input's max(A*p + B, 0) / D."""
        large, factors = as_map(x), (1, *self.factors(len(x.spatial)))[-2:]
        constants: dict[str, int] = {}
        for axis, size, factor in zip("HW", large.spatial, factors, strict=True):
            a, b, d = 2, 1 - factor, 2 * factor
            if self.align_corners and size > 1:  # a single pixel is everywhere
                a, b, d = size - 1, 0, size * factor - 1
            constants |= {f"A{axis}": a, f"B{axis}": b, f"D{axis}": d}
        return constants

    def gradient(self, node: Node, dy: Value, build: Builder) -> dict[Value, Value]:
        x = node.inputs[0]
        (dx,) = build.add(UpsampleGradient(self, x.type), dy, names=(f"d_{x.name}",))
        return {x: dx}


@dataclass(frozen=True)
class UpsampleGradient(MapGradient):
    """dx from dy: every pixel collects from the places it was spread to, by the same weights."""

    of: Upsample

    def schedule(self, node: Node, tail: Tail) -> Schedule:
        dy = node.inputs[0]
        if self.of.mode == "nearest":
            return self.of.repeat("sum_pool", dy, dy.type, self.x, tail)
        coordinates = self.of.coordinates(self.x)
        # outputs whose coordinate is less than 1 away: 2D/A of them, one more where that is whole
        reach = {
            f"REACH_{axis}": -(-2 * coordinates[f"D{axis}"] // coordinates[f"A{axis}"]) + 1
            for axis in "HW"
        }
        return bilinear_launch("bilinear_gradient", dy, tail.output, {**coordinates, **reach})


def bilinear_launch(
    function: str, given: Value, made: Value, constants: Mapping[str, Argument]
) -> Schedule:
    """One launch of a nest of ``kernels/upsample.py``, forward or the gradient."""
    back = function.endswith("gradient")
    small, large = (as_map(v.type) for v in ((made, given) if back else (given, made)))
    launch = block_launch(
        Nest("upsample", function),
        small if back else large,
        {
            **({"dy_ptr": given, "dx_ptr": made} if back else {"x_ptr": given, "y_ptr": made}),
            "H": small.height,
            "W": small.width,
            "C": small.channels,
            "OH": large.height,
            "OW": large.width,
            **constants,
        },
    )
    return Schedule((launch,))
