"""Networks whose products are made by the variants of their loop nests."""

from dataclasses import replace

from convdsl.compiler import Network
from convdsl.ir.choices import Choices, key_of, product_of
from convdsl.ir.tile import Tile

SMALL = Tile(32, 16, 16, 4, 2)


def with_variants(network: Network, tile: Tile = SMALL) -> Network:
    """All products that have a variant are made by it."""
    tiles = {}
    for node in network.fused.all_nodes:
        launch = product_of(node)
        if launch is not None and launch.product is not None and launch.product.variants:
            (variant,) = launch.product.variants
            tiles[key_of(node) or ""] = replace(tile, variant=variant)
    return network.chosen(Choices(tiles))
