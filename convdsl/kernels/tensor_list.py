"""Many tensors in one launch: a table says where they lie, a list which part a program takes.

The table is int64 (tensors, columns): elements, number of the first program, then addresses of
float32 data. The list is int32 (programs,): the row each program works on. Elements are taken in
memory order, so all tensors of a row must lie alike.
"""

import triton
import triton.language as tl


@triton.jit
def part(rows_ptr, table_ptr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Of this program: its row of the table, its elements, which exist, and whether all do.

    What is loaded without a mask is loaded in vectors, which a number from a table cannot promise.
    """
    program = tl.program_id(0)
    row = table_ptr + tl.load(rows_ptr + program) * COLUMNS
    elements, first = tl.load(row), tl.load(row + 1)
    offsets = (program - first) * BLOCK + tl.arange(0, BLOCK)
    full = (program - first + 1) * BLOCK <= elements
    return row, offsets, offsets < elements, full


@triton.jit
def address(place, ALIGNED: tl.constexpr):
    """The pointer to float32 that the table holds at ``place``; ALIGNED: 16 divides it."""
    pointer = tl.load(place).to(tl.pointer_type(tl.float32))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer
