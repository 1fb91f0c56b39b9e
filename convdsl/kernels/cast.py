"""Many float32 tensors into one flat tensor of another type, in one launch."""

import triton
import triton.language as tl

from convdsl.kernels.tensor_list import address, part


@triton.jit
def cast(rows_ptr, table_ptr, flat_ptr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    """flat[start + i] = x[i], rounded to nearest, for every tensor x of the table.

    Columns of the table, see `tensor_list`: the address of x, and start, a multiple of 64.
    """
    row, offsets, mask, full = part(rows_ptr, table_ptr, 4, BLOCK)
    x_ptr = address(row + 2, ALIGNED) + offsets
    y_ptr = flat_ptr + tl.multiple_of(tl.load(row + 3), 64) + offsets
    if full:
        tl.store(y_ptr, tl.load(x_ptr).to(flat_ptr.dtype.element_ty))
    else:
        tl.store(y_ptr, tl.load(x_ptr, mask=mask).to(flat_ptr.dtype.element_ty), mask=mask)
