"""Losses with their gradients, and the mean that every one of them ends in.

Each kernel leaves one partial sum a program and the gradient up to a common factor; `mean` adds the
sums and finds the factor, `scaled` multiplies by it when the backward pass comes. Everything in a
fixed order and without atomics, so equal inputs give equal bits. Labels are float32 but where they
are class numbers.
"""

import triton
import triton.language as tl


@triton.jit
def mean(
    sums_ptr,
    weights_ptr,
    loss_ptr,
    scale_ptr,
    parts,
    count,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss[0] = sum of sums / D and scale[0] = FACTOR / D, by one program.

    sums fp32 (parts,); D = sum of weights, fp32 (parts,), or ``count`` if that is None. Where D is
    0 the loss is NaN, as torch's mean of nothing, and the scale 0: nothing is learned from it.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    weight = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total += tl.load(sums_ptr + offsets, mask=offsets < parts, other=0.0)
        if weights_ptr is not None:
            weight += tl.load(weights_ptr + offsets, mask=offsets < parts, other=0.0)
    divisor = tl.sum(weight, axis=0)
    if weights_ptr is None:
        divisor += count
    empty = divisor == 0.0
    divisor = tl.where(empty, 1.0, divisor)
    tl.store(loss_ptr, tl.where(empty, float("nan"), tl.sum(total, axis=0) / divisor))
    tl.store(scale_ptr, tl.where(empty, 0.0, FACTOR / divisor))


@triton.jit
def add_up(parts_ptr, total_ptr, parts, BLOCK: tl.constexpr):
    """total[0] = sum of ``parts`` fp32 numbers, by one program."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, parts, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        total += tl.load(parts_ptr + offsets, mask=offsets < parts, other=0.0)
    tl.store(total_ptr, tl.sum(total, axis=0))


@triton.jit
def scaled(x_ptr, scale_ptr, factor_ptr, y_ptr, elements, BLOCK: tl.constexpr):
    """y[i] = x[i] * (scale[0] * factor[0]), worked out in float32."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    factor = tl.load(scale_ptr) * tl.load(factor_ptr).to(tl.float32)
    y = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32) * factor
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def multi_margin(
    x_ptr,
    labels_ptr,
    sums_ptr,
    dx_ptr,
    rows,
    C: tl.constexpr,
    MARGIN: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Of row r with label t: loss = sum over c != t of h(z), z = MARGIN - x[r,t] + x[r,c].

    h(z) = max(0, z)^P with P 1 or 2; dx[r,c] = [z > 0] z^(P-1), and minus their sum at t: for P = 2
    half the gradient. x and dx are (rows, C), labels int64 (rows,) in 0 .. C-1, of another the loss
    is NaN; sums fp32, one a program. A z that is no number counts as 0, as in torch.
    """
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    label = tl.load(labels_ptr + r, mask=r < rows, other=0)
    known = (label >= 0) & (label < C)
    wanted = tl.load(x_ptr + r * C + label, mask=(r < rows) & known, other=0.0).to(tl.float32)
    loss = tl.where(known, 0.0, float("nan"))
    pull = tl.zeros((ROWS,), tl.float32)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        z = _excess(x_ptr, row, c, wanted, rows, C, MARGIN)
        z = tl.where(c == label[:, None], 0.0, z)
        slope = z if P == 2 else tl.where(z > 0.0, 1.0, 0.0)
        loss += tl.sum(slope * z, axis=1)
        pull += tl.sum(slope, axis=1)
    for start in range(0, C, COLS):
        c = start + tl.arange(0, COLS)[None, :]
        z = _excess(x_ptr, row, c, wanted, rows, C, MARGIN)
        slope = z if P == 2 else tl.where(z > 0.0, 1.0, 0.0)
        dx = tl.where(c == label[:, None], -pull[:, None], slope)
        mask = (row < rows) & (c < C)
        tl.store(dx_ptr + row * C + c, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(loss, axis=0))


@triton.jit
def _excess(x_ptr, row, c, wanted, rows, C: tl.constexpr, MARGIN: tl.constexpr):
    """max(0, MARGIN - wanted + x[row, c]), 0 beyond the rows and channels and of a NaN."""
    mask = (row < rows) & (c < C)
    x = tl.load(x_ptr + row * C + c, mask=mask, other=0.0).to(tl.float32)
    z = MARGIN - wanted[:, None] + x
    return tl.where(mask & (z > 0.0), z, 0.0)


@triton.jit
def binary_cross_entropy(
    x_ptr,
    labels_ptr,
    pos_weight_ptr,
    sums_ptr,
    dx_ptr,
    elements,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss = -(q y log s(x) + (1-y) log(1 - s(x))), s the logistic function, y the label.

    dx = (1-y) s(x) - q y s(-x). q = pos_weight[channel], fp32 (C,), or 1 if None. x, labels and dx
    (elements,) with C channels last; sums fp32, one a program.
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(labels_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    positive = y
    if pos_weight_ptr is not None:
        positive *= tl.load(pos_weight_ptr + offsets % C, mask=mask, other=0.0).to(tl.float32)
    rest = tl.log(1.0 + tl.exp(-tl.abs(x)))
    # -log s(x) = max(-x, 0) + log(1 + exp(-|x|)), the maximum such that a NaN stays one
    below = tl.where(x > 0.0, 0.0, -x)
    above = tl.where(x < 0.0, 0.0, x)
    loss = positive * (below + rest) + (1.0 - y) * (above + rest)
    dx = (1.0 - y) * tl.sigmoid(x) - positive * tl.sigmoid(-x)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, loss, 0.0), axis=0))


@triton.jit
def squared_error(x_ptr, labels_ptr, sums_ptr, dx_ptr, elements, BLOCK: tl.constexpr):
    """loss = (x - y)^2 with the label y, dx = x - y: half the gradient. sums fp32, one a program.

    x, labels and dx are (elements,).
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    dx = x - tl.load(labels_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(dx * dx, axis=0))


@triton.jit
def contrastive(
    x_ptr,
    labels_ptr,
    sums_ptr,
    dx_ptr,
    elements,
    MARGIN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss = y d^2 + (1-y) max(0, MARGIN - d)^2 of the distance d, y = 1 for a similar pair.

    dx = y d - (1-y) max(0, MARGIN - d): half the gradient. x, labels and dx are (elements,); sums
    fp32, one a program.
    """
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < elements
    d = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(labels_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    short = tl.where(d >= MARGIN, 0.0, MARGIN - d)  # of a NaN a NaN
    loss = y * d * d + (1.0 - y) * short * short
    dx = y * d - (1.0 - y) * short
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(tl.where(mask, loss, 0.0), axis=0))
