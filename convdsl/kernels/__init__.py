"""Triton loop nests: complete kernels that import only triton.

Maps are channels last, (N, H, W, C). A nest's holes are function-valued ``tl.constexpr``
arguments: ``EPILOGUE(acc, offsets, column, mask, aux, seed)`` gets the fp32 result tile, its int64
element offsets in storage order and its mask, may read or write the tensors of the tuple ``aux`` at
those offsets, and returns the tile to store. ``column % C`` is ``offsets % C``, C the number of
channels, but one row for all of a tile of rows by channels: what every pixel reads alike is loaded
once. Sizes in capitals are compile-time constants. ``X_STRIDE`` or ``x_stride`` is how many
elements the rows of x are apart, C unless x is channels of a wider tensor; ``offsets`` do not know.
"""
