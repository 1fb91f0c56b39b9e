"""Many tensors in one launch: a table says where they lie, a list which part a program takes.

The table is int64 (tensors, columns): elements, number of the first program, then addresses, of
float32 data where nothing else is said. The list is int32 (programs,): the row each program works
on. Elements are taken in memory order, so all tensors of a row must lie alike.
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


@triton.jit
def store_half(place, offsets, value, mask, ALIGNED: tl.constexpr):
    """``value`` into a float16 tensor at the address at ``place``, a bfloat16 one at the next.

    An address of 0 is no tensor. Rounds to nearest.
    """
    half, brain = tl.load(place), tl.load(place + 1)
    # as 8 divides the address a thread stores the four elements that it has; for eight, as 16
    # would allow, threads would have to exchange theirs
    if half != 0:
        pointer = half.to(tl.pointer_type(tl.float16))
        pointer = tl.multiple_of(pointer, 8) if ALIGNED else pointer
        tl.store(pointer + offsets, value.to(tl.float16), mask=mask)
    if brain != 0:
        pointer = brain.to(tl.pointer_type(tl.bfloat16))
        pointer = tl.multiple_of(pointer, 8) if ALIGNED else pointer
        tl.store(pointer + offsets, value.to(tl.bfloat16), mask=mask)
