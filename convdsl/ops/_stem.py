"""The first convolution of coloured images on padded maps, as launches: a variant of the general.

Three channels are an odd number: pixels cannot be loaded as vectors. So a launch before the product
makes a copy with its border and a fourth channel of zeros, and a small one pads the weights alike.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument, Launch, Nest, Product, Schedule, Size, Tail
from convdsl.ir.types import TensorType
from convdsl.ops._conv_launches import band_of, product_over_pixels, shares_of
from convdsl.ops._convolution import Geometry
from convdsl.ops._reduce import totals_of
from convdsl.ops._rows import stride_of
from convdsl.ops._tiles import STEM, exchanged, power_of_two
from convdsl.ops._touched import partly, seen
from convdsl.ops._window import as_map, over_a_map

#: channels of a padded pixel
PIXEL = 4
#: elements of a program that pads, at most
BLOCK = 1024


def forward(
    geometry: Geometry, x: Value, weight: Value, bias: Value | None, tail: Tail
) -> Schedule | None:
    """``tail.output`` = x convolved with the weight and a bias; None if not asked for."""
    tile = tail.tile
    if tile is None or tile.variant != STEM or not geometry.is_stem or tail.pool:
        return None
    filters, _, rows, columns = _map_weight(geometry)
    block_k = max(16, power_of_two(columns * PIXEL))
    tiles = -(-filters // tile.n)
    pixels = geometry.pixels
    padded = _padded_map(geometry, x)
    taps = Value(f"{weight.name}_padded", TensorType((filters, rows, block_k), batched=False))
    channels = geometry.group_channels
    pads = _pad(
        weight,
        taps,
        {"H": rows, "W": columns, "C": channels, "X_STRIDE": channels},
        {"OH": rows, "OW": block_k // PIXEL, "OC": PIXEL, "TOP": 0, "LEFT": 0},
        f"{filters}",
        {},
    )
    product = Launch(
        Nest("conv_stem", "conv_stem"),
        {
            "x_ptr": padded,
            "w_ptr": taps,
            "bias_ptr": bias,
            "y_ptr": tail.output,
            "rows": Size(f"n * {pixels}"),
            **_constants(geometry, padded),
            "Y_STRIDE": stride_of(tail.output, filters),
            "EXCHANGED": exchanged(tile, tail),
            "PRECISION": "ieee",
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": block_k,
        },
        (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}",),
        tile.warps,
        tile.stages,
        band_of(1, filters, tile, tiles, pixels),
        _touched(geometry, padded),
        Product(f"n * {pixels}", f"{filters}", f"{rows * block_k}", variants=(STEM,)),
    )
    return Schedule((_pad_map(geometry, x, padded), pads, product), (padded, taps))


def grad_weight(
    geometry: Geometry,
    x: Value,
    dy: Value,
    dws: Sequence[Value],
    dbs: Sequence[Value],
    tail: Tail,
) -> Schedule | None:
    """As of `convdsl.ops._conv_launches`; None unless the tile asks for it."""
    tile = tail.tile
    if tile is None or tile.variant != STEM or not geometry.is_stem:
        return None
    filters, channels, rows, columns = _map_weight(geometry)
    padded = _padded_map(geometry, x)
    tiles = -(-filters // tile.m) * -(-rows * power_of_two(columns * PIXEL) // tile.n)
    partial = shares_of(geometry, (*dws, *dbs), tiles, tile.splits)
    split = partial.type.shape[0]
    shares = Launch(
        Nest("conv_stem", "conv_stem_grad_weight"),
        {
            "x_ptr": padded,
            "dy_ptr": dy,
            "partial_ptr": partial,
            "rows": Size(f"n * {geometry.pixels}"),
            **_constants(geometry, padded),
            "C": channels,
            "S": columns,
            "DY_STRIDE": stride_of(dy, filters),
            "BIAS": bool(dbs),
            "SPLIT": split,
            "PRECISION": "ieee",
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (str(tiles), str(split)),
        tile.warps,
        tile.stages,
        touched=_touched(geometry, padded),
        product=product_over_pixels(geometry),
    )
    launches = (_pad_map(geometry, x, padded), shares, *totals_of(partial, dws, dbs))
    return Schedule(launches, (padded, partial))


def _map_weight(geometry: Geometry) -> tuple[int, int, int, int]:
    """(filters, channels, rows of taps, columns of taps)."""
    rows, columns = over_a_map(geometry.window).kernel
    return geometry.weight[0], geometry.weight[1], rows, columns


def _padded_map(geometry: Geometry, x: Value) -> Value:
    """What the windows see of x and its border; rows begin at multiples of two pixels."""
    y, window = as_map(geometry.y).spatial, over_a_map(geometry.window)
    height, width = (
        (size - 1) * stride + (kernel - 1) * dilation + 1
        for size, stride, kernel, dilation in zip(
            y, window.stride, window.kernel, window.dilation, strict=True
        )
    )
    return Value(f"{x.name}_padded", TensorType((PIXEL, height, width + width % 2)))


def _pad_map(geometry: Geometry, x: Value, padded: Value) -> Launch:
    """The launch that makes it."""
    (_, height, width), (channels, *sides) = padded.type.shape, as_map(geometry.x).shape
    (top, _), (left, _) = over_a_map(geometry.window).padding
    kept = prod(
        min(side, size - start)
        for side, size, start in zip(sides, (height, width), (top, left), strict=True)
    )
    return _pad(
        x,
        padded,
        {"H": sides[0], "W": sides[1], "C": channels, "X_STRIDE": stride_of(x, channels)},
        {"OH": height, "OW": width, "OC": PIXEL, "TOP": top, "LEFT": left},
        "n",
        partly(x, kept * channels),
    )


def _pad(
    x: Value,
    y: Value,
    old: dict[str, Argument],
    new: dict[str, int],
    count: str,
    touched: dict[Value, str],
) -> Launch:
    """Of ``count`` samples or filters, each of the old sizes and of the new ones."""
    size = new["OH"] * new["OW"] * new["OC"]
    block = min(BLOCK, power_of_two(size))
    return Launch(
        Nest("conv_stem", "pad_map"),
        {"x_ptr": x, "y_ptr": y, **old, **new, "BLOCK": block},
        (f"{count} * {-(-size // block)}",),
        touched=touched,
    )


def _constants(geometry: Geometry, padded: Value) -> dict[str, Argument]:
    """Those that both products have."""
    y, window = as_map(geometry.y), over_a_map(geometry.window)
    return {
        "HEIGHT": padded.type.shape[1],
        "WIDTH": padded.type.shape[2] * PIXEL,
        "K": y.channels,
        "P": y.height,
        "Q": y.width,
        "R": window.kernel[0],
        "RUN": window.kernel[1] * PIXEL,
        "STRIDE_H": window.stride[0],
        "STRIDE_W": window.stride[1] * PIXEL,
        "DILATION_H": window.dilation[0],
    }


def _touched(geometry: Geometry, padded: Value) -> dict[Value, str]:
    """Strides may leave places out."""
    window = replace(over_a_map(geometry.window), padding=((0, 0), (0, 0)))
    places = seen(padded.type.shape[1:], as_map(geometry.y).spatial, window)
    return partly(padded, places * PIXEL)
