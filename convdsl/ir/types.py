"""Tensor types: the shape of one sample and the kind of number it holds.

The batch axis is never part of a type: it is dynamic everywhere. Shapes are logical and in
torch's order, ``(C, H, W)`` for maps, ``(C, L)`` for sequences, ``(C,)`` for vectors; in memory
a map is stored channels last (N, H, W, C).
"""

from dataclasses import dataclass
from enum import Enum
from math import prod


class DType(Enum):
    """What an element is. The value is the torch dtype's name; COMPUTE is chosen at run time."""

    COMPUTE = "compute"  # float32, bfloat16 or float16
    FLOAT32 = "float32"
    INT8 = "int8"
    INT32 = "int32"
    INT64 = "int64"
    BIT = "bit"  # eight channels a byte; the channels are a multiple of eight

    def bytes(self, count: int, compute: int) -> int:
        """Size of ``count`` elements, given the size of a COMPUTE element."""
        if self is DType.BIT:
            return count // 8
        sizes = {"compute": compute, "float32": 4, "int8": 1, "int32": 4, "int64": 8}
        return count * sizes[self.value]


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape without batch, element kind, and whether there is one per sample of the batch."""

    shape: tuple[int, ...]
    dtype: DType = DType.COMPUTE
    batched: bool = True

    @property
    def is_map(self) -> bool:
        return len(self.shape) == 3

    @property
    def is_vector(self) -> bool:
        return len(self.shape) == 1

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def elements(self) -> int:
        """Elements of one sample (or of the whole tensor when not batched)."""
        return prod(self.shape)

    @property
    def stored(self) -> int:
        """`elements` as a pointer counts them: the bytes of bits."""
        return self.elements // 8 if self.dtype is DType.BIT else self.elements

    @property
    def pixels(self) -> int:
        """Spatial positions of one sample: H*W, L or 1."""
        return prod(self.shape[1:])

    def with_shape(self, *shape: int) -> "TensorType":
        return TensorType(tuple(shape), self.dtype, self.batched)


class Notation(Enum):
    """How volumes are written: as the lectures do (32x32x3) or channels first (3@32x32)."""

    HWC = "HWC"
    CHW = "C@HW"

    def show(self, kind: TensorType) -> str:
        """A shape in this notation: ``28x28x6`` or ``6@28x28``, ``6@28``, ``120``."""
        channels, spatial = kind.shape[0], kind.shape[1:]
        if not spatial:
            return str(channels)
        if self is Notation.HWC and len(spatial) == 2:
            return "x".join(str(size) for size in (*spatial, channels))
        return f"{channels}@" + "x".join(str(size) for size in spatial)
