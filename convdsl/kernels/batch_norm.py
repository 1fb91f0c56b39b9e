"""Batch normalisation: statistics per channel, merged in fixed order, and what is made of them.

Tensors are rows of channels: a row per pixel of every sample, or per sample of vectors. Sums go
over SPLIT stretches of the rows at once, each worked out by one program, and are put together as
one tree: no atomics, so equal inputs give equal bits. C is the number of channels.
"""

import triton
import triton.language as tl


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
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i] = (mean[c], sum over r of (x[r,c] - mean[c])^2) of the i-th stretch of rows.

    x is (rows, C), partial float32 (SPLIT, 2, C). Stretch i is the blocks of ROWS rows from
    i*blocks/SPLIT on, as `merge_statistics` counts them too.
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
        x = tl.load(x_ptr + row * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        here = tl.minimum(tl.maximum(rows - first - start, 0), ROWS).to(tl.float32)
        some = tl.maximum(here, 1.0)
        average = tl.sum(x, axis=0) / some
        deviation = tl.where(row < rows, x - average[None, :], 0.0)
        squares = tl.sum(deviation * deviation, axis=0)
        count, mean, m2 = merge(count, mean, m2, tl.zeros_like(count) + here, average, squares)
    place = partial_ptr + split * 2 * channels + c
    tl.store(place, mean, mask=c < channels)
    tl.store(place + channels, m2, mask=c < channels)


@triton.jit(do_not_specialize=["training"])
def merge_statistics(
    partial_ptr,
    running_mean_ptr,
    running_var_ptr,
    mean_ptr,
    rstd_ptr,
    new_mean_ptr,
    new_var_ptr,
    rows,
    channels,
    training,
    MOMENTUM: tl.constexpr,
    EPS: tl.constexpr,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """mean and rstd = 1/sqrt(var + EPS) of the batch, and the running statistics moved towards it.

    In training var is the mean of the squared deviations, and the running variance gets the one
    with n/(n-1); otherwise mean and rstd are those of the running statistics, which stay. All are
    (C,); new_mean and new_var may be the running statistics themselves. Without rows nothing
    moves.
    """
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    running_mean = tl.load(running_mean_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    running_var = tl.load(running_var_ptr + c, mask=c < channels, other=1.0).to(tl.float32)
    stretch = tl.cdiv(tl.cdiv(rows, ROWS), SPLIT) * ROWS
    count = tl.zeros((COLS,), tl.float32)
    mean = tl.zeros((COLS,), tl.float32)
    m2 = tl.zeros((COLS,), tl.float32)
    for split in range(SPLIT):
        place = partial_ptr + split * 2 * channels + c
        average = tl.load(place, mask=c < channels, other=0.0)
        squares = tl.load(place + channels, mask=c < channels, other=0.0)
        here = tl.minimum(tl.maximum(rows - split * stretch, 0), stretch).to(tl.float32)
        count, mean, m2 = merge(count, mean, m2, tl.zeros_like(count) + here, average, squares)
    learning = (training != 0) & (rows > 0)
    var = m2 / tl.maximum(count, 1.0)
    unbiased = m2 / tl.maximum(count - 1.0, 1.0)
    tl.store(mean_ptr + c, tl.where(learning, mean, running_mean), mask=c < channels)
    rstd = 1.0 / tl.sqrt_rn(tl.where(learning, var, running_var) + EPS)
    tl.store(rstd_ptr + c, rstd, mask=c < channels)
    new_mean = tl.where(learning, running_mean + MOMENTUM * (mean - running_mean), running_mean)
    new_var = tl.where(learning, running_var + MOMENTUM * (unbiased - running_var), running_var)
    tl.store(new_mean_ptr + c, new_mean.to(new_mean_ptr.dtype.element_ty), mask=c < channels)
    tl.store(new_var_ptr + c, new_var.to(new_var_ptr.dtype.element_ty), mask=c < channels)


@triton.jit(do_not_specialize=["seed"])
def normalize(
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    rows,
    channels,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """y[r,c] = EPILOGUE((x[r,c] - mean[c]) * rstd[c] * weight[c] + bias[c]); x, y are (rows, C)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mean = tl.load(mean_ptr + c, mask=c < channels, other=0.0)
    rstd = tl.load(rstd_ptr + c, mask=c < channels, other=0.0)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    mask = (row < rows) & (c < channels)[None, :]
    offsets = row * channels + c[None, :]
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    y = (x - mean[None, :]) * (rstd * weight)[None, :] + bias[None, :]
    y = EPILOGUE(y, offsets, c[None, :], mask, aux, seed)
    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gradient_sums(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    partial_ptr,
    rows,
    channels,
    SPLIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """partial[i] = (sum over r of dy[r,c] * x^[r,c], sum over r of dy[r,c]) of a stretch of rows.

    x^ = (x - mean) * rstd; dy and x are (rows, C), partial float32 (SPLIT, 2, C): what
    `reduce.sum_partials` adds up to the gradients of weight and bias.
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
        offsets = row * channels + c[None, :]
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        # dy is zero outside, but what it is multiplied with must be finite there too
        of_weight += dy * tl.where(mask, (x - mean[None, :]) * rstd[None, :], 0.0)
        of_bias += dy
    place = partial_ptr + split * 2 * channels + c
    tl.store(place, tl.sum(of_weight, axis=0), mask=c < channels)
    tl.store(place + channels, tl.sum(of_bias, axis=0), mask=c < channels)


@triton.jit(do_not_specialize=["seed", "training"])
def normalize_gradient(
    dy_ptr,
    x_ptr,
    mean_ptr,
    rstd_ptr,
    weight_ptr,
    dw_ptr,
    db_ptr,
    dx_ptr,
    rows,
    channels,
    training,
    aux,
    seed,
    EPILOGUE: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """dx = EPILOGUE(weight * rstd * (dy - training * (db + x^ * dw) / rows)), x^ as above.

    dy, x and dx are (rows, C), the others (C,). When not training, mean and rstd are constants.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLS + tl.arange(0, COLS)
    mean = tl.load(mean_ptr + c, mask=c < channels, other=0.0)
    rstd = tl.load(rstd_ptr + c, mask=c < channels, other=0.0)
    weight = tl.load(weight_ptr + c, mask=c < channels, other=0.0).to(tl.float32)
    share = tl.where(training != 0, 1.0, 0.0) / rows
    dw = tl.load(dw_ptr + c, mask=c < channels, other=0.0) * share
    db = tl.load(db_ptr + c, mask=c < channels, other=0.0) * share
    mask = (row < rows) & (c < channels)[None, :]
    offsets = row * channels + c[None, :]
    dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    normal = (x - mean[None, :]) * rstd[None, :]
    dx = (rstd * weight)[None, :] * (dy - db[None, :] - normal * dw[None, :])
    dx = EPILOGUE(dx, offsets, c[None, :], mask, aux, seed)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)
