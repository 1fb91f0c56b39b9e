"""How a matrix-product loop nest cuts its work: static by default, or what a device was best at."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows, columns and contraction depth (in 16-bit elements) of one step of a program.

    splits: stretches that a contraction over the batch is cut into; 0 leaves them to the op.
    variant: another loop nest of the same meaning, of those in `ir.launch.Product.variants`; "" is
    the general one.
    """

    m: int
    n: int
    k: int
    warps: int
    stages: int
    splits: int = 0
    variant: str = ""
