"""Dropout as a function for epilogues: which elements are kept follows from their number."""

import triton
import triton.language as tl


@triton.jit
def random_word(low, high, key):
    """Philox2x32-10 (Salmon et al., 2011): a word for the counter (low, high) under ``key``.

    Half the state and half the multiplications of the usual 4x32, whose words for one element do
    not fit the registers beside the tile of a matrix product. All are uint32.
    """
    for _ in tl.static_range(10):
        before = low
        low = tl.umulhi(before, 0xD256D193) ^ key ^ high
        high = tl.mul(before, 0xD256D193, sanitize_overflow=False)
        key = tl.add(key, 0x9E3779B9, sanitize_overflow=False)
    return low


@triton.jit
def dropout(x, p: tl.constexpr, salt: tl.constexpr, seed_ptr, offsets):
    """x / (1 - p) where kept, else 0; x itself when the seed, one int64, is below 0 (evaluation).

    An element is kept with probability 1 - p. The backward pass calls it with the same numbers, so
    no mask is saved. ``salt`` tells the dropouts of a network apart.
    """
    seed = tl.load(seed_ptr)
    # 64 bits that differ with seed and salt: the key of all elements, and a shift of their numbers
    key, shift, _, _ = tl.philox(seed, salt, 0, 0, 0)
    wide = offsets.to(tl.int64)
    word = random_word(wide.to(tl.uint32), (wide >> 32).to(tl.uint32) ^ shift, key)
    threshold: tl.constexpr = int(p * 4294967296.0)
    scale: tl.constexpr = 1.0 / (1.0 - p)
    kept = tl.where(word >= threshold, x * scale, 0.0)
    return tl.where(seed < 0, x, kept)
