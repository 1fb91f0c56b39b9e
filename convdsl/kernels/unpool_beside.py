"""The gradient of a map that is max pooled, and that a window was cut out of."""

import triton
import triton.language as tl

from convdsl.kernels.pool import unpooled


@triton.jit(do_not_specialize=["seed"])
def max_pool_gradient_beside(
    dy_ptr,
    index_ptr,
    beside_ptr,
    dx_ptr,
    rows,
    beside_aux,
    aux,
    seed,
    BESIDE_PROLOGUE: tl.constexpr,
    EPILOGUE: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    OH: tl.constexpr,
    OW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PT: tl.constexpr,
    PL: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    DY_STRIDE: tl.constexpr,
    BESIDE_STRIDE: tl.constexpr,
    DX_STRIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx = EPILOGUE(what `pool.max_pool_gradient` sums + beside[n, h+TOP, w+LEFT, c]).

    beside is (n, BH, BW, C) and zero outside its map, or stands for BESIDE_PROLOGUE(beside) if that
    is not None; TOP and LEFT may be negative. All else is as in `max_pool_gradient`.
    """
    program = tl.program_id(0).to(tl.int64) if C == 1 else tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]
    mask = (row < rows) & (c < C)
    image = (row // (H * W)).to(tl.int64)
    h = (row // W % H).to(tl.int32)
    w = (row % W).to(tl.int32)
    dy_map = dy_ptr + image * (OH * OW * DY_STRIDE) + c
    index_map = index_ptr + image * (OH * OW * C) + c
    total = unpooled(dy_map, index_map, h + PT, w + PL, mask, OH, OW, C, KH, KW, SH, SW, DY_STRIDE)
    h += TOP
    w += LEFT
    inside = mask & (h >= 0) & (h < BH) & (w >= 0) & (w < BW)
    pixel = image * (BH * BW) + h * BW + w
    beside = tl.load(beside_ptr + pixel * BESIDE_STRIDE + c, mask=inside, other=0.0)
    beside = beside.to(tl.float32)
    if BESIDE_PROLOGUE is not None:
        made = BESIDE_PROLOGUE(beside, pixel * C + c, c, inside, beside_aux, seed)
        beside = tl.where(inside, made, 0.0)
    offsets = row.to(tl.int64) * C + c
    dx = EPILOGUE(total + beside, offsets, c, mask, aux, seed)
    if dx_ptr is not None:
        tl.store(
            dx_ptr + row.to(tl.int64) * DX_STRIDE + c, dx.to(dx_ptr.dtype.element_ty), mask=mask
        )
