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
    block: int = REDUCE_BLOCK,
) -> Launch:
    """The launch that adds up ``partial``: (split, elements of ``dw`` and then of ``db``)."""
    split, *size = partial.type.shape
    biases = db.type.elements if db else 0
    return Launch(
        Nest("reduce", "sum_partials"),
        {
            "partial_ptr": partial,
            "dw_ptr": dw,
            "db_ptr": db,
            "scale_ptr": None,
            "factor_ptr": None,
            "weights": Size(f"{dw.type.elements}"),
            "biases": Size(f"{biases}"),
            "SPLIT": split,
            "BLOCK": block,
        },
        (str(-(-prod(size) // block)),),
    )
