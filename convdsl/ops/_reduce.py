"""The launch of ``kernels/reduce.py``: partial sums of gradients of parameters, added in order."""

from collections.abc import Sequence
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
    width = prod(partial.type.shape[1:])
    return _sum(partial, dw, db, 0, width, width, block)


def totals_of(partial: Value, dws: Sequence[Value], dbs: Sequence[Value]) -> tuple[Launch, ...]:
    """The same where ``partial`` is of all ``dws`` one behind the other, then of all ``dbs``."""
    if len(dws) == 1:
        return (total_of(partial, dws[0], dbs[0] if dbs else None),)
    made: list[Launch] = []
    first, width = 0, prod(partial.type.shape[1:])
    for gradient in (*dws, *dbs):
        size = gradient.type.elements
        made.append(_sum(partial, gradient, None, first, size, width, REDUCE_BLOCK))
        first += size
    return tuple(made)


def _sum(
    partial: Value, dw: Value, db: Value | None, first: int, size: int, width: int, block: int
) -> Launch:
    """``size`` columns from ``first`` on, of ``width``."""
    split = partial.type.shape[0]
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
            "first": Size(f"{first}"),
            "width": Size(f"{width}"),
            "SPLIT": split,
            "BLOCK": block,
        },
        (str(-(-size // block)),),
        touched={partial: f"{split * size}"} if size < width else {},
    )
