"""Dropout as a function for epilogues: which elements are kept follows from their number."""

import triton
import triton.language as tl


@triton.jit
def dropout(x, p: tl.constexpr, salt: tl.constexpr, seed, offsets):
    """x / (1 - p) where kept, else 0; x itself when ``seed`` < 0 (evaluation).

    An element is kept with probability 1 - p, decided by Philox4x32-10 (Salmon et al., 2011) with
    the key ``seed`` at the counter (offset, salt). The backward pass calls it with the same
    numbers, so no mask is saved. ``salt`` tells the dropouts of a network apart.
    """
    # one call gives four words: one for each of four neighbours
    block = offsets.to(tl.int64) >> 2
    low = block.to(tl.uint32)
    high = (block >> 32).to(tl.uint32)
    nothing = low * 0
    a, b, c, d = tl.philox(seed, low, high, nothing + salt, nothing)
    lane = (offsets & 3).to(tl.int32)
    word = tl.where(lane < 2, tl.where(lane == 0, a, b), tl.where(lane == 2, c, d))
    threshold: tl.constexpr = int(p * 4294967296.0)
    scale: tl.constexpr = 1.0 / (1.0 - p)
    kept = tl.where(word >= threshold, x * scale, 0.0)
    return tl.where(seed < 0, x, kept)
