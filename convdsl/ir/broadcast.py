"""Which tensors spread over a larger one in pointwise arithmetic, and where their elements lie.

Everything is stored channels last, so a number per channel repeats with every pixel. Only what an
epilogue can read beside its tile: the larger tensor itself is indexed by ``offsets``.
"""

from convdsl.ir.graph import Node, Value
from convdsl.ir.types import TensorType


def element_of(operand: TensorType, full: TensorType, stride: int | None = None) -> str | None:
    """Triton text of the element of ``operand`` for the elements ``offsets`` of ``full``.

    A number per channel is found by ``column`` (see `convdsl.kernels`), and read without a mask.
    ``operand`` has the shape of ``full``; or one number per channel (C,), per sample and channel
    (C,) or (C, 1, 1), or one for all (1,). None: it does not spread over ``full``. stride: elements
    between the rows of ``operand``, where it is channels of a wider tensor.
    """
    channels, size = full.channels, full.elements
    if operand.shape == full.shape and operand.batched == full.batched:
        gap = (stride or channels) - channels
        return f"offsets + offsets // {channels} * {gap}" if gap else "offsets"
    if operand.batched:
        per_sample = operand.elements == operand.channels == channels and full.batched
        return f"offsets // {size} * {channels} + column % {channels}" if per_sample else None
    if operand.shape == (channels,):
        return f"column % {channels}"
    if operand.shape == full.shape:
        return f"offsets % {size}"
    return "0" if operand.shape == (1,) else None


def tile_of(node: Node) -> Value:
    """The operand of a pointwise node whose elements ``offsets`` number: its first of full size."""
    full = node.output.type
    return next(v for v in node.operands if element_of(v.type, full) == "offsets")
