"""The three matrix-product loop nests of a convolution as launches: tiles, grids, arguments.

A transposed convolution uses the same three with their roles exchanged, so what is stored need not
be a gradient. Sequences are maps of height 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import gcd, prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Band, Launch, Nest, Product, Schedule, Size, Tail
from convdsl.ir.tile import Tile
from convdsl.ir.types import DType, TensorType
from convdsl.ops._boxed import Operands, by_variant, variants_of
from convdsl.ops._convolution import Geometry
from convdsl.ops._reduce import totals_of
from convdsl.ops._rows import stride_of
from convdsl.ops._tiles import (
    SHORTEST_BAND,
    STEM,
    TYPICAL_BATCH,
    depth_block,
    exchanged,
    product_tile,
    splits,
    tap_block,
    weight_gradient_tile,
)
from convdsl.ops._window import as_map, over_a_map


def forward(geometry: Geometry, x: Value, weight: Value, bias: Value | None, tail: Tail) -> Launch:
    """``tail.output`` = x convolved with the weight, plus bias; pooled if the tail asks for it."""
    pool_h, pool_w = tail.pool or (1, 1)
    height, width = as_map(geometry.y).spatial
    outputs = (height // pool_h * pool_h, width // pool_w * pool_w)
    pixels = prod(outputs)
    columns, channels = geometry.group_filters, geometry.group_channels
    of = Operands(x, weight, bias, False, pixels, channels, columns)
    touched = geometry.touched_of_x(x, outputs[-len(geometry.y.spatial) :])
    if (launch := by_variant(geometry, of, tail, touched)) is not None:
        return launch
    block_k = tap_block(channels, geometry.taps)
    tile = tail.tile or _forward_tile(geometry, pixels, block_k, tail)
    tiles = -(-columns // tile.n) * geometry.groups
    return Launch(
        Nest("conv_forward", "conv_forward"),
        {
            "x_ptr": x,
            "w_ptr": weight,
            "bias_ptr": bias,
            "y_ptr": tail.output,
            "index_ptr": tail.index,
            "rows": Size(f"n * {pixels}"),
            **geometry.constants,
            "X_STRIDE": stride_of(x, geometry.x.channels),
            "Y_STRIDE": stride_of(tail.output, geometry.y.channels),
            "POOL_H": pool_h,
            "POOL_W": pool_w,
            "EXCHANGED": exchanged(tile, tail),
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}",),
        tile.warps,
        tile.stages,
        None if tail.pool else band_of(geometry.groups, columns, tile, tiles, pixels),
        touched,
        Product(
            f"n * {pixels}",
            f"{columns}",
            f"{channels * geometry.taps}",
            geometry.groups,
            (STEM,) if geometry.is_stem and not tail.pool else variants_of(geometry, of, tail),
        ),
        columns if geometry.groups > 1 else 0,
    )


def grad_input(
    geometry: Geometry, dy: Value, weight: Value, bias: Value | None, tail: Tail
) -> Launch:
    """``tail.output`` = the full convolution of dy with the turned filters, plus bias."""
    window = over_a_map(geometry.window)
    stride_h, stride_w = window.stride
    height, width = as_map(geometry.x).spatial
    pixels = -(-height // stride_h) * -(-width // stride_w)
    columns = geometry.group_channels
    phases = stride_h * stride_w
    programs = geometry.groups * phases
    of = Operands(dy, weight, bias, True, pixels, geometry.group_filters, columns)
    touched = geometry.touched_of_y(dy)
    if (launch := by_variant(geometry, of, tail, touched)) is not None:
        return launch
    tile = tail.tile or _grad_input_tile(geometry, programs, pixels, tail)
    tiles = -(-columns // tile.n) * geometry.groups
    return Launch(
        Nest("conv_grad_input", "conv_grad_input"),
        {
            "dy_ptr": dy,
            "w_ptr": weight,
            "bias_ptr": bias,
            "dx_ptr": tail.output,
            "rows": Size(f"n * {pixels}"),
            **geometry.constants,
            "DY_STRIDE": stride_of(dy, geometry.y.channels),
            "DX_STRIDE": stride_of(tail.output, geometry.x.channels),
            "PERIOD_H": stride_h // gcd(stride_h, window.dilation[0]),
            "PERIOD_W": stride_w // gcd(stride_w, window.dilation[1]),
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}", str(phases)),
        tile.warps,
        tile.stages,
        band_of(geometry.groups, columns, tile, tiles, pixels, phases),
        touched,
        # every phase of a stride has its share of the taps
        Product(
            f"n * {pixels}",
            f"{columns}",
            f"{-(-geometry.group_filters * geometry.taps // phases)}",
            programs,
            variants_of(geometry, of, tail),
        ),
        columns if geometry.groups > 1 else 0,
    )


def _forward_tile(geometry: Geometry, pixels: int, block_k: int, tail: Tail) -> Tile:
    rows, columns = (1 if tail.alone else TYPICAL_BATCH) * pixels, geometry.group_filters
    tile = product_tile(rows, columns, block_k, geometry.groups)
    # what ptxas spills decides: with Triton 3.6 bits want few columns rather than few rows, and on
    # sm_100 four warps do for the statistics of a small tile where programs have whole rows of 16
    if tail.packs and (tile.m, tile.n) == (64, 128):
        return replace(tile, m=128, n=64)
    small = (tile.m, tile.n) == (64, 128) or (tile.m, columns) == (128, 64)
    if tail.reduces and small and pixels % 16 == 0:
        return replace(tile, warps=4)
    return tile


def _grad_input_tile(geometry: Geometry, programs: int, pixels: int, tail: Tail) -> Tile:
    rows = (1 if tail.alone else TYPICAL_BATCH) * pixels
    block_k = depth_block(geometry.group_filters)
    tile = product_tile(rows, geometry.group_channels, block_k, programs, tail.crowded)
    # what ptxas spills decides
    return replace(tile, warps=4) if (tile.m, tile.n) == (64, 64) else tile


def band_of(
    groups: int, columns: int, tile: Tile, tiles: int, pixels: int, phases: int = 1
) -> Band | None:
    """The rows of a program's tile, if its columns leave neither its group nor the tensor."""
    if (groups > 1 and columns % tile.n) or tile.m < SHORTEST_BAND:
        return None
    index = f"tl.program_id(0) // {tiles}"
    if phases > 1:
        index = f"{index} * {phases} + tl.program_id(1)"
    return Band(tile.m, index, pixels, phases)


def product_over_pixels(geometry: Geometry) -> Product:
    """What a weight gradient is."""
    columns = geometry.taps * geometry.group_channels
    pixels = f"n * {geometry.pixels}"
    variants = (STEM,) if geometry.is_stem else ()
    return Product(f"{geometry.group_filters}", f"{columns}", pixels, geometry.groups, variants)


def shares_of(geometry: Geometry, gradients: Sequence[Value], tiles: int, split: int = 0) -> Value:
    """What stretches of pixels add to the gradients, where one stretch has so many programs.

    split: how many stretches, 0 for what the number of programs asks for.
    """
    split = split or splits(tiles, TYPICAL_BATCH * geometry.pixels)
    size = sum(gradient.type.elements for gradient in gradients)
    return Value(f"{gradients[0].name}_partial", TensorType((split, size), DType.FLOAT32, False))


def grad_weight(
    geometry: Geometry,
    x: Value,
    dy: Value,
    dws: Sequence[Value],
    dbs: Sequence[Value],
    tail: Tail,
) -> Schedule:
    """dw in the weight's order, and db if wanted: shares over stretches of pixels, then a sum.

    Several are of filters side by side in dy.
    """
    taps, channels = geometry.taps, geometry.group_channels
    tile = tail.tile or weight_gradient_tile(geometry.group_filters, taps * channels)
    tiles = -(-geometry.group_filters // tile.m) * -(-taps * channels // tile.n) * geometry.groups
    partial = shares_of(geometry, (*dws, *dbs), tiles, tile.splits)
    split = partial.type.shape[0]
    shares = Launch(
        Nest("conv_grad_weight", "conv_grad_weight"),
        {
            "x_ptr": x,
            "dy_ptr": dy,
            "partial_ptr": partial,
            "rows": Size(f"n * {geometry.pixels}"),
            **geometry.constants,
            "X_STRIDE": stride_of(x, geometry.x.channels),
            "DY_STRIDE": stride_of(dy, geometry.y.channels),
            "BIAS": bool(dbs),
            "SPLIT": split,
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (str(tiles), str(split)),
        tile.warps,
        tile.stages,
        touched=geometry.touched_of_x(x),
        product=product_over_pixels(geometry),
    )
    return Schedule((shares, *totals_of(partial, dws, dbs)), (partial,))
