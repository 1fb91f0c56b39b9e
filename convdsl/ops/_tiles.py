"""Static choice of tiles, warps and pipeline stages for the matrix-product loop nests.

A choice depends on shapes alone, never on the batch or the device: wide tiles where the product is
wide, narrow ones where too few programs would leave most of a large GPU idle.
"""

from convdsl.ir.launch import Tail
from convdsl.ir.tile import Tile

#: what a `Tile` may ask for beside the general loop nests: boxes of pixels times the filters' taps,
#: operands exchanged; programs that make tile after tile of a product of rows; padded colours
SWAPPED, PERSISTENT, STEM = "swapped", "persistent", "stem"
#: those that take boxes of tensor descriptors
BOXED = (SWAPPED, PERSISTENT)
VARIANTS = ("", *BOXED, STEM)
#: images a batch is taken to have, where only the choice of tiles depends on it
TYPICAL_BATCH = 64
#: programs that keep a large GPU busy: two for each of about 132 multiprocessors
PROGRAMS = 264
#: most stretches the pixels of a weight gradient are cut into
MOST_SPLITS = 128
#: rows of a band whose sums are worth storing: two float32 numbers of each are written and read,
#: where 16-bit numbers of all rows would have been read
SHORTEST_BAND = 16
#: shortest stretch worth a program, in pixels
SHORTEST_SPLIT = 256


def power_of_two(size: int) -> int:
    """The least power of two >= ``size``."""
    return 1 << (size - 1).bit_length()


def product_tile(
    rows: int, columns: int, block_k: int, programs: int = 1, crowded: bool = False
) -> Tile:
    """For a product of rows x columns, of which ``programs`` run side by side.

    crowded: see `Tail`; beside 128 columns such epilogues have no registers left.
    """
    n = min(_side(columns), 64 if crowded else 128)
    m = min(128 if n > 32 else 64, max(16, power_of_two(rows)))
    while m > 64 and -(-rows // m) * -(-columns // n) * programs < PROGRAMS:
        m //= 2
    # what ptxas spills decides: four warps are too few for the epilogues of 64 rows
    return Tile(m, n, block_k, warps=8 if m >= 64 and n >= 32 else 4, stages=3)


def exchanged(tile: Tile, tail: Tail) -> bool:
    """Whether the operands of a forward product are better exchanged (`add_product`).

    Its columns then are the rows that a warp group of Hopper multiplies 64 at a time.
    """
    return tile.n >= 64 and tail.by_columns


def weight_gradient_tile(filters: int, columns: int) -> Tile:
    """For a result of filters x (taps * channels), contracted over the pixels of the batch."""
    m = _side(filters)
    if m == 32 and filters > 32:
        m = 64  # what a warp group of Hopper multiplies with; fewer rows go through slower units
    n = min(_side(columns), 128 if m > 16 else 64)
    # what ptxas spills decides: thin tiles with three stages or other numbers of warps, wide ones
    # with four warps
    if min(m, n) < 64:
        return Tile(m, n, 64, warps=8 if n == 64 else 4, stages=2)
    return Tile(m, n, 64, warps=8, stages=3)


def splits(tiles: int, pixels: int) -> int:
    """Stretches to cut the ``pixels`` into when one stretch has ``tiles`` programs.

    A power of two, so that the partial sums are added as one tree.
    """
    most = min(MOST_SPLITS, max(1, pixels // SHORTEST_SPLIT), -(-PROGRAMS // tiles))
    return power_of_two(most)


def depth_block(depth: int) -> int:
    """Contraction block: the widest of 64, 32, 16 whose last one is nearly full.

    It is short where ``depth`` is too odd to be loaded as vectors, which takes registers.
    """
    for block in (64, 32, 16) if depth % 16 == 0 else ():
        if -depth % block <= depth / 8:
            return block
    return min(32, max(16, power_of_two(depth)))


def tap_block(channels: int, taps: int) -> int:
    """Contraction block over taps * channels: inside one tap if the channels allow 32 or more.

    Else it runs across taps, and is short where channels are too odd to be loaded as vectors.
    """
    for block in (64, 32):
        if channels % block == 0:
            return block
    return min(64 if channels % 8 == 0 else 32, max(16, power_of_two(taps * channels)))


def _side(size: int) -> int:
    """A block for ``size`` rows or columns: at most 128, with a quarter of overhang at most."""
    block = min(128, max(16, power_of_two(size)))
    while block > 32 and -(-size // block) * block > 1.25 * size:
        block //= 2
    return block
