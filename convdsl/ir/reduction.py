"""Reductions over the rows of a tensor, which the kernel that makes it may begin.

A tensor in memory is rows of channels. A kernel whose programs make bands of rows adds up its own
band while it is in registers (`RowReduction.of_band`); small launches make the outputs of what the
bands found (`RowReduction.combine`), and the tensor is not read once more for it.
"""

from abc import abstractmethod
from typing import ClassVar

from convdsl.ir.graph import Node, Value
from convdsl.ir.launch import Band, Schedule
from convdsl.ir.op import Op
from convdsl.ir.types import DType, TensorType


class RowReduction(Op):
    """An op that makes numbers per channel of the rows of its first input."""

    #: how many of the operands, the first ones, a band reads
    reads: ClassVar[int] = 1
    #: how many numbers per channel it has
    numbers: ClassVar[int]
    #: bands must follow each other
    in_order: ClassVar[bool] = False

    @abstractmethod
    def of_band(self, *operands: str) -> tuple[str, ...]:
        """Triton text of what a band has: for each of ``numbers`` a block (1, columns).

        The first `reads` operands are fp32 blocks as in `Op.expression`; ``mask`` says which
        elements count.
        """

    @abstractmethod
    def combine(self, node: Node, bands: Value, band: Band) -> Schedule:
        """The launches that make the outputs of ``node`` of `bands_of` all its bands."""


def bands_of(node: Node, band: Band) -> Value:
    """What the bands of a reduction have, float32 (count, numbers, C); it has room for more."""
    assert isinstance(node.op, RowReduction)
    size = band.most * node.op.numbers * node.inputs[0].type.channels
    return Value(f"{node.output.name}_bands", TensorType((size,), DType.FLOAT32))
