"""Conditions on the elements of a tensor, a bit each: eight channels a byte, the first lowest.

The channels are a multiple of eight, so that eight elements that follow each other in memory from a
multiple of eight on lie in one pixel.
"""

import triton
import triton.language as tl


@triton.jit
def store_bits(ptr, bits, offsets, mask):
    """ptr[i] gets the eight ``bits`` of the elements 8*i to 8*i + 7.

    offsets numbers the elements of the block, whose last axis goes over whole eights of channels.
    """
    EIGHTS: tl.constexpr = bits.numel // 8
    shifted = tl.where(bits, 1, 0) << (offsets & 7).to(tl.int32)
    byte = tl.sum(tl.reshape(shifted, (EIGHTS, 8)), axis=1, keep_dims=True)
    byte = tl.reshape(tl.broadcast_to(byte, (EIGHTS, 8)), bits.shape)
    # the first of the eight stores for all
    tl.store(ptr + (offsets >> 3), byte.to(tl.uint8), mask=mask & ((offsets & 7) == 0))


@triton.jit
def load_bits(ptr, offsets, mask):
    """The bits of these elements; false outside of the mask."""
    byte = tl.load(ptr + (offsets >> 3), mask=mask, other=0).to(tl.int32)
    return ((byte >> (offsets & 7).to(tl.int32)) & 1) != 0


@triton.jit(do_not_specialize=["seed"])
def pack_bits(x_ptr, y_ptr, aux, seed, elements, EPILOGUE: tl.constexpr, BLOCK: tl.constexpr):
    """y gets the bits EPILOGUE(x[i]) for i < elements, a multiple of eight."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    store_bits(y_ptr, EPILOGUE(x, offsets, offsets, mask, aux, seed), offsets, mask)
