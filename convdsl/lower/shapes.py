"""Shapes as written -> tensor types, and axes of a tensor by their letters."""

from convdsl.ir.types import Notation, TensorType
from convdsl.lower.findings import failure
from convdsl.syntax import ast

_AXES = {1: "C", 2: "CL", 3: "CHW"}


def sizes_of(shape: ast.Shape) -> tuple[int, ...]:
    """The sizes in torch's order; `32x32x3` is height, width, channels."""
    dims = shape.dims
    return (dims[-1], *dims[:-1]) if shape.notation == "HWC" else dims


def tensor_type(shape: ast.Shape) -> TensorType:
    """The type of one sample. Raises Failed E107."""
    dims = sizes_of(shape)
    if min(dims) < 1:
        raise failure("E107", "every size of a shape is at least 1", shape.span)
    return TensorType(dims)


def notation_of(shape: ast.Shape) -> Notation:
    """The notation findings and tables use for a program with this input."""
    return Notation.CHW if "@" in shape.notation else Notation.HWC


def axis_size(kind: TensorType, shape: ast.ShapeOf, notation: Notation) -> int:
    """The size `@.C` stands for. Raises Failed E226 if the tensor has no such axis."""
    axes = _AXES.get(len(kind.shape), "")
    if len(shape.axis) != 1 or shape.axis not in axes:
        raise failure(
            "E226",
            f"{notation.show(kind)} has no axis {shape.axis}",
            shape.span,
            "its axes are " + ", ".join(axes),
        )
    return kind.shape[axes.index(shape.axis)]
