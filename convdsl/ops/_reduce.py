"""The launch of ``kernels/reduce.py``: partial sums of gradients of parameters, added in order."""

from math import prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Launch, Nest, Size

#: elements one program of the ordered sum adds up
REDUCE_BLOCK = 64


def total_of(
    partial: Value,
    dw: Value,
    db: Value | None,
    sizes: tuple[int, int, int],
    block: int = REDUCE_BLOCK,
) -> Launch:
    """The launch that adds up ``partial`` (split, filters * taps * channels [+ filters]).

    sizes: (filters, channels, taps), in which order ``dw`` is written.
    """
    split, *size = partial.type.shape
    filters, channels, taps = sizes
    return Launch(
        Nest("reduce", "sum_partials"),
        {
            "partial_ptr": partial,
            "dw_ptr": dw,
            "db_ptr": db,
            "scale_ptr": None,
            "factor_ptr": None,
            "filters": Size(f"{filters}"),
            "channels": Size(f"{channels}"),
            "taps": Size(f"{taps}"),
            "SPLIT": split,
            "BLOCK": block,
        },
        (str(-(-prod(size) // block)),),
    )
