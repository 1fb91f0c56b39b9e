"""Sizes and tensors as Python text of generated functions."""

import re

from convdsl.codegen.header import storage_shape
from convdsl.ir.graph import Places
from convdsl.ir.launch import Box
from convdsl.ir.types import DType, TensorType


def box(argument: Box, name: str, places: Places) -> str:
    """``boxes(x, (n, 56, 56, 64), 64, (2, 8, 8, 64))`` of the tensor called ``name``."""
    value, shape = argument.value, argument.shape
    stride = places.stride(value) if value.type.channels == shape[-1] else shape[-1]
    sizes = ", ".join(tidy(str(size)) for size in shape)
    return f"boxes({name}, ({sizes}), {stride}, {argument.block})"


def new_tensor(
    kind: TensorType, shape: str | None = None, order: tuple[int, ...] | None = None
) -> str:
    """``new((n, 28, 28, 6))``; the dtype only where it is not the computing one.

    order: of the axes in memory, where the tensor has no batch and one of its own.
    """
    shape, view = shape or storage_shape(kind), ""
    if order:
        shape = f"({', '.join(str(kind.shape[axis]) for axis in order)})"
        view = f".permute{tuple(order.index(axis) for axis in range(len(order)))}"
    stored = {DType.BIT: "uint8"}.get(kind.dtype, kind.dtype.value)
    dtype = "" if kind.dtype is DType.COMPUTE else f", dtype=torch.{stored}"
    return f"new({shape}{dtype}){view}"


def tidy(expression: str) -> str:
    """A size expression without its factors of one."""
    return re.sub(r" \* 1(?![\d.])", "", expression)
