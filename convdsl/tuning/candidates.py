"""The launch of a product -> the tiles worth building for it, the most promising first.

The order is a cost model's: the time that the matrix units need for the padded product, that its
operands take through the L2 cache, and that programs wait for them where few loads are in flight.
Programs run in waves, and a wave that is not full takes as long as one that is. It ranks; it does
not predict.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from convdsl.ir.launch import Launch
from convdsl.ir.tile import Tile
from convdsl.ops._tiles import BOXED, SWAPPED

#: elements of the result that a program may hold for every warp: 64 registers of each lane
PER_WARP = 64 * 32
SIDES = (16, 32, 64, 128, 256)
DEPTHS = (16, 32, 64, 128)
STAGES = (2, 3, 4, 5)
#: rows of the left operand that a warp group multiplies with: columns, where operands are exchanged
GROUP = 64
#: candidates with the same rows and columns
ALIKE = 4
#: seconds from asking for operands to having them
LATENCY = 6e-7


@dataclass(frozen=True, slots=True)
class Machine:
    """What the model asks of a device.

    processors: that run programs side by side. shared, registers: bytes of shared memory and 32-bit
    registers of each, and ``shared_limit`` the bytes that one program may take. threads: of each at
    most. flops: of its matrix units, a second; cache, memory: bytes a second. boxes: its hardware
    copies boxes of tensor descriptors.
    """

    processors: int
    shared: int
    shared_limit: int
    registers: int = 65536
    threads: int = 2048
    flops: float = 8e14
    cache: float = 5.5e12
    memory: float = 3.5e12
    boxes: bool = True


def variants(launch: Launch, machine: Machine) -> tuple[str, ...]:
    """Loop nests for the launch that the machine can gain by; "" is the launch's own."""
    known = launch.product.variants if launch.product else ()
    return ("", *(name for name in known if machine.boxes or name not in BOXED))


def candidates(
    launch: Launch, machine: Machine, n: int, size: int, variant: str = ""
) -> list[Tile]:
    """Tiles for a batch of ``n`` and elements of ``size`` bytes, ranked by `cost`."""
    fitting = (t for t in _tiles(launch, n) if _shared(t, size) <= machine.shared_limit)
    tiles = [replace(t, variant=variant) for t in fitting if variant != SWAPPED or t.n >= GROUP]
    return sorted(tiles, key=lambda tile: cost(launch, tile, machine, n, size))


def varied(tiles: Iterable[Tile], most: int) -> list[Tile]:
    """The first ``most`` of ranked tiles, few of each shape: neighbours are about as fast."""
    taken: list[Tile] = []
    for tile in tiles:
        alike = sum((t.m, t.n) == (tile.m, tile.n) for t in taken)
        if alike < ALIKE and len(taken) < most:
            taken.append(tile)
    return taken


def _tiles(launch: Launch, n: int) -> Iterator[Tile]:
    assert launch.product is not None
    rows, columns, depth = launch.product.sizes(n)
    splits = launch.arguments.get("SPLIT", 0)
    assert isinstance(splits, int)
    for m, width, k in product(_near(rows), _near(columns), _depths(launch, depth)):
        for warps in (4, 8):
            if PER_WARP * warps // 32 <= m * width <= PER_WARP * 2 * warps:
                for stages, share in product(STAGES, _shares(splits)):
                    yield Tile(m, width, k, warps, stages, share)


def _near(size: int) -> list[int]:
    """Sides that a size fills, and the next one: the overhang is the model's business."""
    return [side for place, side in enumerate(SIDES) if place == 0 or SIDES[place - 1] < size]


def _depths(launch: Launch, depth: int) -> list[int]:
    """Steps along the contraction; inside one tap where the static choice is."""
    static = launch.arguments["BLOCK_K"]
    assert isinstance(static, int)
    channels = launch.arguments.get("C")
    if launch.product is not None and "SPLIT" in launch.arguments:
        return [32, 64, 128]  # over the pixels
    if not isinstance(channels, int) or channels % static == 0:
        return [k for k in DEPTHS if depth % k == 0] or [static]
    return [static]


def _shares(splits: int) -> Iterable[int]:
    """Numbers of stretches: powers of two around the static one; 0 where there are none."""
    return (
        dict.fromkeys(max(1, min(512, s)) for s in (splits // 2, splits, splits * 2))
        if splits
        else (0,)
    )


def _shared(tile: Tile, size: int) -> int:
    """Bytes of the operands in flight, about."""
    return (tile.m + tile.n) * tile.k * size * (tile.stages - 1)


def cost(
    launch: Launch,
    tile: Tile,
    machine: Machine,
    n: int,
    size: int,
    registers: int = 128,
    shared: int | None = None,
) -> float:
    """Seconds, roughly. registers of a thread, shared: bytes of a program, where they are known."""
    assert launch.product is not None
    rows, columns, depth = launch.product.sizes(n)
    splits = max(1, tile.splits)
    across = -(-rows // tile.m) * -(-columns // tile.n)
    steps = -(-depth // (splits * tile.k))
    programs = across * splits * launch.product.count
    threads = 32 * tile.warps
    beside = min(
        machine.threads // threads,
        machine.registers // max(1, registers * threads),
        machine.shared // max(1, _shared(tile, size) if shared is None else shared),
    )
    at_once = machine.processors * max(1, beside)
    waves = -(-programs // at_once)
    work = waves * at_once * steps * tile.k
    maths = 2 * work * tile.m * tile.n / machine.flops
    cache = work * (tile.m + tile.n) * size / machine.cache
    result = rows * columns * launch.product.count * (4 * splits if tile.splits else size)
    waiting = waves * steps * LATENCY / (tile.stages - 1)
    return max(maths, cache, result / machine.memory) + waiting / 4
