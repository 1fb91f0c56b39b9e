"""The launch of ``kernels/reduce.py``: partial sums of gradients of parameters, added in order."""

from collections.abc import Sequence
from math import prod

from convdsl.ir.graph import Value
from convdsl.ir.launch import Argument, Launch, Nest, Size

#: elements one program of the ordered sum adds up
REDUCE_BLOCK = 64


def total_of(
    partial: Value,
    dw: Value,
    db: Value | None,
    block: int = REDUCE_BLOCK,
) -> Launch:
    """The launch that adds up ``partial``: (split, elements of ``dw`` and then of ``db``)."""
    (made,) = totals_of(partial, (dw,), (db,) if db else (), block)
    return made


def totals_of(
    partial: Value, dws: Sequence[Value], dbs: Sequence[Value], block: int = REDUCE_BLOCK
) -> tuple[Launch, ...]:
    """The same where ``partial`` is of all ``dws`` one behind the other, then of all ``dbs``."""
    split, *sizes = partial.type.shape
    width, made = prod(sizes), list[Launch]()
    dw_first, db_first = 0, sum(dw.type.elements for dw in dws)
    for number, dw in enumerate(dws):
        db = dbs[number] if dbs else None
        weights, biases = dw.type.elements, db.type.elements if db else 0
        arguments: dict[str, Argument] = {
            "partial_ptr": partial,
            "dw_ptr": dw,
            "db_ptr": db,
            "scale_ptr": None,
            "factor_ptr": None,
            "weights": Size(f"{weights}"),
            "biases": Size(f"{biases}"),
            "dw_first": Size(f"{dw_first}"),
            "db_first": Size(f"{db_first}"),
            "width": Size(f"{width}"),
            "SPLIT": split,
            "BLOCK": block,
        }
        size = weights + biases
        touched = {partial: f"{split * size}"} if size < width else {}
        grid = (str(-(-size // block)),)
        made.append(Launch(Nest("reduce", "sum_partials"), arguments, grid, touched=touched))
        dw_first, db_first = dw_first + weights, db_first + biases
    return tuple(made)
