"""Batch normalisation: statistics per channel, merged in fixed order, and sums of its gradient.

Tensors are rows of channels: a row per pixel of every sample, or per sample of vectors. A
reduction goes over SPLIT stretches of the rows at once, each worked out by one program, or begins
in the kernel that makes the rows, band by band; what is found is put together in a fixed order: no
atomics, so equal inputs give equal bits. C is the number of channels.
"""

import triton
import triton.language as tl


@triton.jit
def column_sum(x, mask):
    """Sum over the rows of a block of those elements that ``mask`` says count: (1, columns)."""
    return tl.sum(tl.where(mask, x, 0.0), axis=0, keep_dims=True)


@triton.jit
def column_mean(x, mask):
    """The mean instead; 0 where no element counts."""
    count = tl.sum(tl.where(mask, 1.0, 0.0), axis=0, keep_dims=True)
    return column_sum(x, mask) * (1.0 / tl.maximum(count, 1.0))


@triton.jit
def column_squares(x, mask):
    """The sum of squared deviations from the mean instead."""
    deviation = x - column_mean(x, mask)
    return column_sum(deviation * deviation, mask)


@triton.jit
def merge_all(count, mean, m2):
    """(count, mean, m2) of all rows together, each such a triple of a set of numbers, by column.

    As `merge` of any number of sets; count is (rows, 1), mean and m2 are (rows, columns), and zero
    where count is.
    """
    total = tl.sum(tl.broadcast_to(count, mean.shape), axis=0)
    average = tl.sum(count * mean, axis=0) / tl.maximum(total, 1.0)
    delta = mean - average[None, :]
    return total, average, tl.sum(m2 + count * delta * delta, axis=0)


@triton.jit
def merge(count, mean, m2, other_count, other_mean, other_m2):
    """(count, mean, sum of squared deviations) of two sets of numbers together (Chan et al., 1979).

    Either set may be empty.
    """
    total = count + other_count
    share = other_count / tl.maximum(total, 1.0)
    delta = other_mean - mean
    return total, mean + delta * share, m2 + other_m2 + delta * delta * count * share


@triton.jit
def statistics(
    x_ptr,
    partial_ptr,
    rows,
    channels,
    x_stride,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i] = (mean[c], sum over r of (x[r,c] - mean[c])^2) of the i-th stretch of rows.

    x is (rows, C), its rows x_stride elements apart, partial float32 (SPLIT, 2, C). Stretch i is
    the blocks of ROWS rows from i*blocks/SPLIT on, as `merge_statistics` counts them too.
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    stretch = tl.cdiv(tl.cdiv(rows, ROWS), SPLIT) * ROWS
    first = split.to(tl.int64) * stretch
    count = tl.zeros((COLS,), tl.float32)
    mean = tl.zeros((COLS,), tl.float32)
    m2 = tl.zeros((COLS,), tl.float32)
    for start in range(0, stretch, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        mask = (row < rows) & (c < channels)[None, :]
        x = tl.load(x_ptr + row * x_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        here = tl.minimum(tl.maximum(rows - first - start, 0), ROWS).to(tl.float32)
        some = tl.maximum(here, 1.0)
        average = tl.sum(x, axis=0) / some
        deviation = tl.where(row < rows, x - average[None, :], 0.0)
        squares = tl.sum(deviation * deviation, axis=0)
        count, mean, m2 = merge(count, mean, m2, tl.zeros_like(count) + here, average, squares)
    place = partial_ptr + split * 2 * channels + c
    tl.store(place, mean, mask=c < channels)
    tl.store(place + channels, m2, mask=c < channels)


@triton.jit
def rows_before(band, rows, BAND: tl.constexpr, PHASES: tl.constexpr):
    """Rows in the first ``band`` bands, of which one of each of PHASES sequences follow each other.

    The ``rows`` are dealt to the sequences evenly, and to the bands of one BAND by BAND.
    """
    each = rows // PHASES
    first = band // PHASES * BAND
    begun = tl.minimum(tl.maximum(each - first, 0), BAND)
    return tl.minimum(first, each).to(tl.int64) * PHASES + band % PHASES * begun


@triton.jit
def merge_bands(
    bands_ptr,
    partial_ptr,
    rows,
    channels,
    BAND: tl.constexpr,
    PHASES: tl.constexpr,
    SPLIT: tl.constexpr,
    STEP: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i] = (mean, sum of squared deviations) of the i-th stretch of bands.

    bands (count, 2, C) has the same of so many rows each as `rows_before` counts: BAND, fewer in
    the last ones. Stretch i is the bands from i*count/SPLIT on. partial is float32 (SPLIT, 2, C).
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    stretch = tl.cdiv(tl.cdiv(rows // PHASES, BAND) * PHASES, SPLIT)
    count = tl.zeros((COLS,), tl.float32)
    mean = tl.zeros((COLS,), tl.float32)
    m2 = tl.zeros((COLS,), tl.float32)
    for start in range(0, stretch, STEP):
        lane = start + tl.arange(0, STEP)[:, None]
        band = (split * stretch + lane).to(tl.int64)
        behind = rows_before(band + 1, rows, BAND, PHASES)
        size = (behind - rows_before(band, rows, BAND, PHASES)).to(tl.float32)
        size = tl.where(lane < stretch, size, 0.0)
        place = bands_ptr + band * (2 * channels) + c[None, :]
        mask = (size > 0.0) & (c < channels)[None, :]
        means = tl.load(place, mask=mask, other=0.0)
        squares = tl.load(place + channels, mask=mask, other=0.0)
        here, average, around = merge_all(size, means, squares)
        count, mean, m2 = merge(count, mean, m2, here, average, around)
    place = partial_ptr + split * 2 * channels + c
    tl.store(place, mean, mask=c < channels)
    tl.store(place + channels, m2, mask=c < channels)


@triton.jit(do_not_specialize=["training"])
def merge_statistics(
    partial_ptr,
    weight_ptr,
    running_mean_ptr,
    running_var_ptr,
    mean_ptr,
    rstd_ptr,
    scale_ptr,
    new_mean_ptr,
    new_var_ptr,
    rows,
    channels,
    first,
    width,
    training,
    MOMENTUM: tl.constexpr,
    EPS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    PHASES: tl.constexpr,
    COLS: tl.constexpr,
):
    """mean, rstd = 1/sqrt(var + EPS) and scale = rstd * weight of the batch, and the running
    statistics moved towards it; partial (SPLIT, 2, width) is of stretches of bands of ROWS rows, as
    `merge_bands` makes it, and its columns from ``first`` on are of these C channels.

    In training var is the mean of the squared deviations, and the running variance gets the one
    with n/(n-1); otherwise mean and rstd are those of the running statistics, which stay. All are
    (C,); new_mean and new_var may be the running statistics themselves, and the others None where
    nobody reads them. Without rows nothing moves.
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    running_mean = tl.load(running_mean_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    running_var = tl.load(running_var_ptr + c, mask=c < channels, other=1.0).to(tl.float32)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    stretch = tl.cdiv(tl.cdiv(rows // PHASES, ROWS) * PHASES, SPLIT)
    split = tl.arange(0, SPLIT)[:, None].to(tl.int64)
    behind = rows_before((split + 1) * stretch, rows, ROWS, PHASES)
    size = (behind - rows_before(split * stretch, rows, ROWS, PHASES)).to(tl.float32)
    place = partial_ptr + split * (2 * width) + first + c[None, :]
    mask = (size > 0.0) & (c < channels)[None, :]
    means = tl.load(place, mask=mask, other=0.0)
    squares = tl.load(place + width, mask=mask, other=0.0)
    count, mean, m2 = merge_all(size, means, squares)
    learning = (training != 0) & (rows > 0)
    var = m2 / tl.maximum(count, 1.0)
    unbiased = m2 / tl.maximum(count - 1.0, 1.0)
    rstd = 1.0 / tl.sqrt_rn(tl.where(learning, var, running_var) + EPS)
    if mean_ptr is not None:
        tl.store(mean_ptr + c, tl.where(learning, mean, running_mean), mask=c < channels)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + c, rstd, mask=c < channels)
    if scale_ptr is not None:
        tl.store(scale_ptr + c, rstd * weight, mask=c < channels)
    new_mean = tl.where(learning, running_mean + MOMENTUM * (mean - running_mean), running_mean)
    new_var = tl.where(learning, running_var + MOMENTUM * (unbiased - running_var), running_var)
    tl.store(new_mean_ptr + c, new_mean.to(new_mean_ptr.dtype.element_ty), mask=c < channels)
    tl.store(new_var_ptr + c, new_var.to(new_var_ptr.dtype.element_ty), mask=c < channels)


@triton.jit
def gradient_sums(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    partial_ptr,
    rows,
    channels,
    dy_stride,
    x_stride,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i] = (sum over r of dy[r,c] * x^[r,c], sum over r of dy[r,c]) of a stretch of rows.

    x^ = (x - mean) * rstd; dy and x are (rows, C), their rows so many elements apart;
    partial is float32 (SPLIT, 2, C).
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    stretch = tl.cdiv(tl.cdiv(rows, ROWS), SPLIT) * ROWS
    first = split.to(tl.int64) * stretch
    mean = tl.load(mean_ptr + c, mask=c < channels, other=0.0)
    rstd = tl.load(rstd_ptr + c, mask=c < channels, other=0.0)
    of_weight = tl.zeros((ROWS, COLS), tl.float32)
    of_bias = tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, stretch, ROWS):
        row = first + start + tl.arange(0, ROWS)[:, None]
        mask = (row < rows) & (c < channels)[None, :]
        dy = tl.load(dy_ptr + row * dy_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + row * x_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        # dy is zero outside, but what it is multiplied with must be finite there too
        of_weight += dy * tl.where(mask, (x - mean[None, :]) * rstd[None, :], 0.0)
        of_bias += dy
    place = partial_ptr + split * 2 * channels + c
    tl.store(place, tl.sum(of_weight, axis=0), mask=c < channels)
    tl.store(place + channels, tl.sum(of_bias, axis=0), mask=c < channels)


@triton.jit
def sum_bands(
    bands_ptr,
    partial_ptr,
    bands,
    columns,
    SPLIT: tl.constexpr,
    STEP: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i, c] = sum of bands[j, c] over the i-th of SPLIT stretches of the j < ``bands``.

    bands and partial are float32 rows of ``columns``.
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    split = tl.program_id(1)
    stretch = tl.cdiv(bands, SPLIT)
    total = tl.zeros((STEP, COLS), tl.float32)
    for start in range(0, stretch, STEP):
        lane = start + tl.arange(0, STEP)[:, None]
        band = (split * stretch + lane).to(tl.int64)
        mask = (lane < stretch) & (band < bands) & (c < columns)[None, :]
        total += tl.load(bands_ptr + band * columns + c[None, :], mask=mask, other=0.0)
    tl.store(partial_ptr + split * columns + c, tl.sum(total, axis=0), mask=c < columns)


@triton.jit(do_not_specialize=["training"])
def finish_gradient(
    partial_ptr,
    rstd_ptr,
    weight_ptr,
    dw_ptr,
    db_ptr,
    scale_ptr,
    slope_ptr,
    offset_ptr,
    rows,
    channels,
    training,
    SPLIT: tl.constexpr,
    COLS: tl.constexpr,
):
    """dw, db = sums over partial (SPLIT, 2, C), and the coefficients of the gradient to x,

        dx = weight * rstd * (dy - training * (db + x^ * dw) / rows)
           = scale * dy + slope * (x - mean) + offset,

    all float32 (C,), or None where nobody reads it. When not training, mean and rstd are constants.
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    place = tl.arange(0, SPLIT)[:, None] * (2 * channels) + c[None, :]
    mask = (c < channels)[None, :]
    dw = tl.sum(tl.load(partial_ptr + place, mask=mask, other=0.0), axis=0)
    db = tl.sum(tl.load(partial_ptr + channels + place, mask=mask, other=0.0), axis=0)
    rstd = tl.load(rstd_ptr + c, mask=c < channels, other=0.0)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    scale = weight * rstd
    share = tl.where(training != 0, scale, 0.0) / tl.maximum(rows, 1)
    if dw_ptr is not None:
        tl.store(dw_ptr + c, dw, mask=c < channels)
    if db_ptr is not None:
        tl.store(db_ptr + c, db, mask=c < channels)
    if scale_ptr is not None:
        tl.store(scale_ptr + c, scale, mask=c < channels)
    if slope_ptr is not None:
        tl.store(slope_ptr + c, -share * rstd * dw, mask=c < channels)
    if offset_ptr is not None:
        tl.store(offset_ptr + c, -share * db, mask=c < channels)
