"""A few tensors one behind the other in a wider one, in one launch."""

import triton
import triton.language as tl


@triton.jit
def stack(
    x0_ptr,
    x1_ptr,
    x2_ptr,
    x3_ptr,
    y_ptr,
    start,
    end0,
    end1,
    end2,
    end3,
    BLOCK: tl.constexpr,
):
    """y[start + i] = x0[i] for i < end0, x1[i - end0] for end0 <= i < end1, and so on.

    An x that is None leaves its stretch of y as it is.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y_start = y_ptr + start + i
    if x0_ptr is not None:
        copy_stretch(x0_ptr + i, y_start, i < end0)
    if x1_ptr is not None:
        copy_stretch(x1_ptr + (i - end0), y_start, (i >= end0) & (i < end1))
    if x2_ptr is not None:
        copy_stretch(x2_ptr + (i - end1), y_start, (i >= end1) & (i < end2))
    if x3_ptr is not None:
        copy_stretch(x3_ptr + (i - end2), y_start, (i >= end2) & (i < end3))


@triton.jit
def copy_stretch(x_ptr, y_ptr, mask):
    """What lies at these places, where the mask says."""
    tl.store(y_ptr, tl.load(x_ptr, mask=mask), mask=mask)
