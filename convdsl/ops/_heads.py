"""What the heads' kernels share: one partial sum a program, then the mean by one program."""

from collections.abc import Mapping
from dataclasses import replace

from convdsl.ir.graph import Role, Value
from convdsl.ir.head import LossValues
from convdsl.ir.launch import Argument, Launch, Nest, Schedule, Size
from convdsl.ir.op import Initializer, ParameterSpec, ShapeError
from convdsl.ir.types import DType, TensorType
from convdsl.ops._rows import row_launch, row_tile

#: elements of one program of an elementwise loss
BLOCK = 1024


def needs_classes(output: TensorType) -> None:
    """E215 unless there are two classes or more."""
    if output.channels < 2:
        raise ShapeError(
            "E215",
            "one score leaves nothing to choose between",
            help="end the net with one score per class, two or more; yes or no from one score is "
            "the head SIGMOID",
        )


def one_per_channel(numbers: tuple[float, ...], output: TensorType, argument: str) -> None:
    """E215 unless ``numbers`` are as many as the channels of the output."""
    if len(numbers) != output.channels:
        raise ShapeError(
            "E215",
            f"{argument} has {len(numbers)} numbers, the output has {output.channels} channels",
            help="give one number per channel, in their order",
            argument=argument,
        )


def constant(numbers: tuple[float, ...], axes: int = 0) -> ParameterSpec:
    """One fixed float32 number per channel, before ``axes`` spatial axes to spread over."""
    shape = (len(numbers), *[1] * axes)
    start = Initializer("values", numbers)
    return ParameterSpec(shape, start, role=Role.CONSTANT, dtype=DType.FLOAT32)


def over_rows(
    function: Nest,
    values: LossValues,
    arguments: Mapping[str, Argument],
    *,
    factor: float = 1.0,
    divisor: str | None = None,
) -> Schedule:
    """A loss of whole rows of channels.

    factor: the gradient is that many times what is stored. divisor: of the sum, an expression of
    ``n``; None: the kernel stores weights beside its sums, and the sum of those is the divisor.
    """
    kind = values.output.type
    rows, _ = row_tile(kind.channels)
    each = row_launch(function, kind, arguments)
    return _schedule(each, values, -(-kind.pixels // rows), factor, divisor)


def over_elements(
    function: Nest, values: LossValues, arguments: Mapping[str, Argument], *, factor: float = 1.0
) -> Schedule:
    """A loss of every element by itself; ``factor`` as above."""
    elements = values.output.type.elements
    count = f"n * {elements}"
    given = {**arguments, "elements": Size(count), "BLOCK": BLOCK}
    each = Launch(function, given, (f"triton.cdiv({count}, {BLOCK})",))
    return _schedule(each, values, -(-elements // BLOCK), factor, count)


def _schedule(
    each: Launch, values: LossValues, most: int, factor: float, divisor: str | None
) -> Schedule:
    """``each``, which leaves a sum a program, at most ``most`` for a sample; then their mean."""
    kind = TensorType((most,), DType.FLOAT32)
    sums = Value(f"{values.loss.name}_sums", kind)
    weights = Value(f"{values.loss.name}_weights", kind) if divisor is None else None
    tensors: dict[str, Argument] = {
        "x_ptr": values.output,
        "labels_ptr": values.labels,
        "sums_ptr": sums,
        "dx_ptr": values.gradient,
    }
    if weights is not None:
        tensors["weights_ptr"] = weights
    mean = Launch(
        Nest("losses", "mean"),
        {
            "sums_ptr": sums,
            "weights_ptr": weights,
            "loss_ptr": values.loss,
            "scale_ptr": values.scale,
            "parts": Size(each.grid[0]),
            "count": Size(divisor or "1"),
            "FACTOR": factor,
            "BLOCK": BLOCK,
        },
        grid=("1",),
    )
    scratch = (sums,) if weights is None else (sums, weights)
    touched = dict.fromkeys(scratch, each.grid[0])
    first = replace(each, arguments={**tensors, **each.arguments}, touched=touched)
    return Schedule((first, replace(mean, touched=touched)), scratch)
