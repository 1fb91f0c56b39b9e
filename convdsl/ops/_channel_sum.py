"""Launches of ``kernels/channel_sum.py``: the gradient of what is spread over a tensor."""

from convdsl.ir.graph import Value
from convdsl.ir.launch import Launch, Nest, Schedule, Size
from convdsl.ir.types import DType, TensorType
from convdsl.ops._rows import stride_of, tile
from convdsl.ops._tiles import TYPICAL_BATCH, splits

MERGE_BLOCK = 64


def channel_sum(
    x: Value, result: Value, factor: Value | None = None, *, negative: bool = False
) -> Schedule:
    """Sums ``x``, times ``factor`` if given, into ``result``, whose type says over what.

    (C,) per sample: over the places of each sample. (C,) or (1,) without batch: over the batch and
    all places, or all elements. negative: the factor counts only where it is not positive.
    ``result`` may have an epilogue.
    """
    channels = result.type.elements
    rows = x.type.elements // channels  # of one sample
    # in front of what there is once for every sample
    per_sample = "n * " if result.type.batched else ""
    count = f"{rows}" if result.type.batched else f"n * {rows}"
    height, width = tile(channels)
    tiles = -(-channels // width)
    typical = rows if result.type.batched else TYPICAL_BATCH * rows
    split = splits(tiles * (TYPICAL_BATCH if result.type.batched else 1), typical)
    kind = TensorType((split, channels), DType.FLOAT32, result.type.batched)
    partial = Value(f"{result.name}_partial", kind)
    shares = Launch(
        Nest("channel_sum", "channel_sum"),
        {
            "x_ptr": x,
            "factor_ptr": factor,
            "partial_ptr": partial,
            "rows": Size(count),
            "NEGATIVE": negative,
            "C": channels,
            "X_STRIDE": stride_of(x, channels),
            "SPLIT": split,
            "ROWS": height,
            "COLS": width,
        },
        (f"{per_sample}{split}", str(tiles)),
    )
    total = Launch(
        Nest("channel_sum", "merge_channel_sums"),
        {
            "partial_ptr": partial,
            "y_ptr": result,
            "elements": Size(f"{per_sample}{channels}"),
            "C": channels,
            "SPLIT": split,
            "BLOCK": MERGE_BLOCK,
        },
        (f"triton.cdiv({per_sample}{channels}, {MERGE_BLOCK})",),
    )
    return Schedule((shares, total), (partial,))
