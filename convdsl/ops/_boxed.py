"""Variants of matrix products: loop nests whose operands come as boxes of tensor descriptors.

Hopper and later copy a box to shared memory by hardware, border and all. Other devices can do with
descriptors, but gain nothing. Which variant is faster than the general nest is for a device to say
(`convdsl.tuning`); here stands where each of them can serve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd, prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument, Band, Box, Launch, Nest, Product, Size, Tail
from convdsl.ir.tile import Tile
from convdsl.ops._convolution import Geometry
from convdsl.ops._rows import stride_of
from convdsl.ops._tiles import PERSISTENT, SHORTEST_BAND, SWAPPED, exchanged
from convdsl.ops._window import as_map, over_a_map

#: programs that stay: as many as an H100 or H200 has multiprocessors
PROCESSORS = 132
#: what divides the numbers of a row, so that every row of 16 or 32 bits begins where a box may
ALIGNED = 8
#: what divides the depth: the least step along it
STEP = 16
#: most pixels of a box along an axis of the map
SIDE = 16


@dataclass(frozen=True, slots=True)
class Operands:
    """x (rows, depth) times w (columns, depth), or (depth, columns) if ``turned``; plus a bias.

    A row is a pixel of a sample, of ``pixels``. A convolution has such a product for every tap.
    """

    x: Value
    weight: Value
    bias: Value | None
    turned: bool
    pixels: int
    depth: int
    columns: int

    @property
    def rows(self) -> str:
        return f"n * {self.pixels}" if self.pixels > 1 else "n"

    @property
    def fit(self) -> bool:
        """Whether rows of both operands can be cut into boxes."""
        return self.depth % STEP == 0 and self.columns % ALIGNED == 0

    @property
    def variants(self) -> tuple[str, ...]:
        """Of a product without taps."""
        return (PERSISTENT,) if self.fit else ()

    def weight_box(self, tile: Tile, taps: int = 1) -> Box:
        """Of the weight with its taps one behind the other."""
        if self.turned:
            return Box(self.weight, (self.depth, taps * self.columns), (tile.k, tile.n))
        return Box(self.weight, (self.columns, taps * self.depth), (tile.n, tile.k))


def persistent(of: Operands, tail: Tail) -> Launch | None:
    """``tail.output`` = the product, by `rows_persistent`; None unless the tile asks for it."""
    tile = tail.tile
    if tile is None or tile.variant not in of.variants:
        return None
    tile = replace(tile, k=gcd(tile.k, of.depth))
    tiles = -(-of.columns // tile.n)
    return Launch(
        Nest("rows_persistent", "rows_persistent"),
        {
            "x_box": Box(of.x, (of.rows, of.depth), (tile.m, tile.k)),
            "w_box": of.weight_box(tile),
            "bias_ptr": of.bias,
            "y_ptr": tail.output,
            "rows": Size(of.rows),
            "DEPTH": of.depth,
            "COLUMNS": of.columns,
            "TURNED": of.turned,
            "Y_STRIDE": stride_of(tail.output, of.columns),
            "EXCHANGED": not of.turned and exchanged(tile, tail),
            **_constants(tile),
        },
        (f"min(triton.cdiv({of.rows}, {tile.m}) * {tiles}, {PROCESSORS})",),
        tile.warps,
        tile.stages,
        Band(tile.m, "aux[-1]", of.pixels) if tile.m >= SHORTEST_BAND else None,
        product=Product(of.rows, f"{of.columns}", f"{of.depth}", variants=of.variants),
    )


@dataclass(frozen=True, slots=True)
class Taps:
    """How a convolution of stride 1 finds its pixels: output (p, q) sees, by tap (r, s), the input
    at (p + first[0] + r*step[0], q + first[1] + s*step[1]). x, y: height and width.
    """

    x: Sequence[int]
    y: Sequence[int]
    kernel: Sequence[int]
    first: Sequence[int]
    step: Sequence[int]


def taps_of(geometry: Geometry, *, turned: bool) -> Taps:
    """Of a convolution, or of its gradient to the input."""
    x, y, window = as_map(geometry.x), as_map(geometry.y), over_a_map(geometry.window)
    first = [start for start, _ in window.padding]
    if turned:
        return Taps(y.spatial, x.spatial, window.kernel, first, [-d for d in window.dilation])
    return Taps(x.spatial, y.spatial, window.kernel, [-f for f in first], window.dilation)


def variants_of(geometry: Geometry, of: Operands, tail: Tail) -> tuple[str, ...]:
    """What a convolution, or its gradient to the input, may be made by as well."""
    if geometry.groups > 1 or set(geometry.window.stride) != {1} or tail.pool or not of.fit:
        return ()
    return (PERSISTENT,) if geometry.is_product else (SWAPPED,)


def by_variant(
    geometry: Geometry, of: Operands, tail: Tail, touched: Mapping[Value, str]
) -> Launch | None:
    """``tail.output`` = the convolution, or the gradient to its input, by the variant that the
    tile asks for; None if it asks for none, or one that does not serve.
    """
    tile = tail.tile
    if tile is None or tile.variant not in variants_of(geometry, of, tail):
        return None
    if tile.variant == PERSISTENT:
        return persistent(of, tail)
    return _swapped(of, taps_of(geometry, turned=of.turned), tail.output, tile, touched)


def _swapped(
    of: Operands, taps: Taps, output: Value, tile: Tile, touched: Mapping[Value, str]
) -> Launch:
    tile = replace(tile, k=gcd(tile.k, of.depth))
    height, width = taps.y
    box_w = _side(width, tile.m)
    box_h = _side(height, tile.m // box_w)
    images, boxes = tile.m // (box_h * box_w), of.pixels // (box_h * box_w)
    tiles = -(-of.columns // tile.n)
    return Launch(
        Nest("conv_swapped", "conv_swapped"),
        {
            "x_box": Box(of.x, ("n", *taps.x, of.depth), (images, box_h, box_w, tile.k)),
            "w_box": of.weight_box(tile, prod(taps.kernel)),
            "bias_ptr": of.bias,
            "y_ptr": output,
            "images": Size("n"),
            "C": of.depth,
            "K": of.columns,
            "P": height,
            "Q": width,
            "R": taps.kernel[0],
            "S": taps.kernel[1],
            **_pair("FIRST", taps.first),
            **_pair("STEP", taps.step),
            "TURNED": of.turned,
            "Y_STRIDE": stride_of(output, of.columns),
            **_pair("BOX", (box_h, box_w)),
            **_constants(tile),
        },
        (f"triton.cdiv(n, {images}) * {boxes * tiles}",),
        tile.warps,
        tile.stages,
        Band(tile.m, f"tl.program_id(0) // {tiles}", box_h * box_w, boxes)
        if tile.m >= SHORTEST_BAND
        else None,
        touched,
        Product(of.rows, f"{of.columns}", f"{of.depth * prod(taps.kernel)}", variants=(SWAPPED,)),
    )


def _side(size: int, most: int) -> int:
    """The greatest power of two that divides ``size``, within bounds: no box overhangs the map."""
    return min(size & -size, SIDE, most)


def _pair(name: str, numbers: Sequence[int]) -> dict[str, Argument]:
    return {f"{name}_{axis}": number for axis, number in zip("HW", numbers, strict=True)}


def _constants(tile: Tile) -> dict[str, Argument]:
    return {"PRECISION": "ieee", "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
