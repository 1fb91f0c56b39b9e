"""1x1 convolutions whose operands are worked out as they are loaded, as launches.

A convolution that meets every pixel by one tap, alone and in one group, is a product of rows of
channels: row i of x makes row i of y.
"""

from collections.abc import Sequence
from dataclasses import replace

from convdsl.ir.graph import Value
from convdsl.ir.launch import Launch, Nest, Product, Schedule, Size, Stride, Tail
from convdsl.ir.tile import Tile
from convdsl.ops._boxed import Operands, persistent
from convdsl.ops._conv_launches import band_of, product_over_pixels, shares_of
from convdsl.ops._convolution import Geometry
from convdsl.ops._reduce import totals_of
from convdsl.ops._tiles import (
    TYPICAL_BATCH,
    depth_block,
    exchanged,
    product_tile,
    weight_gradient_tile,
)


def forward(geometry: Geometry, x: Value, weight: Value, bias: Value | None, tail: Tail) -> Launch:
    """``tail.output`` = x convolved with the weight, plus bias."""
    filters, channels, *_ = geometry.weight
    return _product(geometry, x, weight, bias, tail, (channels, filters), (1, channels))


def grad_input(geometry: Geometry, dy: Value, weight: Value, tail: Tail) -> Launch:
    """``tail.output`` = dy times the transposed weight."""
    filters, channels, *_ = geometry.weight
    return _product(geometry, dy, weight, None, tail, (filters, channels), (channels, 1))


def _product_tile(rows: int, columns: int, depth: int, tail: Tail) -> Tile:
    tile = product_tile(rows, columns, depth_block(depth), crowded=tail.crowded)
    return replace(tile, k=min(tile.k, 32)) if _is_middling(tile) or tail.laden else tile


def _weight_tile(filters: int, channels: int, bias: bool, laden: bool) -> Tile:
    tile = weight_gradient_tile(filters, channels)
    if bias or _is_middling(tile):
        tile = replace(tile, stages=2)
    if tile.n < tile.m == 128:
        tile = replace(tile, warps=4)  # with eight, prologues of both operands spill on sm_100
    # sums of a bias beside the product take registers too, with Triton 3.6 many
    return replace(tile, k=32) if bias or laden else tile


def _is_middling(tile: Tile) -> bool:
    """64 by 128: what ptxas spills decides; its eight warps want shallow steps, or few stages."""
    return tile.m * tile.n == 64 * 128


def _product(
    geometry: Geometry,
    x: Value,
    weight: Value,
    bias: Value | None,
    tail: Tail,
    sizes: tuple[int, int],
    strides: tuple[int, int],
) -> Launch:
    """sizes, strides: of the weight along the contraction, and along the columns."""
    (depth, columns), (by_depth, by_column) = sizes, strides
    pixels = geometry.pixels
    of = Operands(x, weight, bias, by_column == 1, pixels, depth, columns)
    if (launch := persistent(of, tail)) is not None:
        return launch
    tile = tail.tile or _product_tile(TYPICAL_BATCH * pixels, columns, depth, tail)
    tiles = -(-columns // tile.n)
    return Launch(
        Nest("rows_product", "rows_product"),
        {
            "x_ptr": x,
            "w_ptr": weight,
            "bias_ptr": bias,
            "y_ptr": tail.output,
            "rows": Size(f"n * {pixels}"),
            "DEPTH": depth,
            "COLUMNS": columns,
            "W_DEPTH": by_depth,
            "W_COLUMN": by_column,
            "X_STRIDE": Stride(x),
            "Y_STRIDE": Stride(tail.output),
            "EXCHANGED": not of.turned and exchanged(tile, tail),
            "PRECISION": "ieee",
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
        },
        (f"triton.cdiv(n * {pixels}, {tile.m}) * {tiles}",),
        tile.warps,
        tile.stages,
        band_of(1, columns, tile, tiles, pixels),
        product=Product(f"n * {pixels}", f"{columns}", f"{depth}", variants=of.variants),
    )


def grad_weight(
    geometry: Geometry,
    x: Value,
    dy: Value,
    dws: Sequence[Value],
    dbs: Sequence[Value],
    tail: Tail,
) -> Schedule:
    """As of `convdsl.ops._conv_launches`; the weight lies in memory as in torch."""
    filters, channels, *_ = geometry.weight
    tile = tail.tile or _weight_tile(filters, channels, bool(dbs), tail.laden)
    tiles = -(-filters // tile.m) * -(-channels // tile.n)
    partial = shares_of(geometry, (*dws, *dbs), tiles, tile.splits)
    split = partial.type.shape[0]
    launch = Launch(
        Nest("rows_product", "rows_product_gradient"),
        {
            "x_ptr": x,
            "dy_ptr": dy,
            "partial_ptr": partial,
            "rows": Size(f"n * {geometry.pixels}"),
            "C": channels,
            "K": filters,
            "X_STRIDE": Stride(x),
            "DY_STRIDE": Stride(dy),
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
        product=product_over_pixels(geometry),
    )
    return Schedule((launch, *totals_of(partial, dws, dbs)), (partial,))
