"""Numbers per channel read in epilogues: behind every layer's kernels, forward and backward."""

import pytest

import convdsl
from convdsl.ir.broadcast import element_of
from convdsl.ir.op import LAYERS
from convdsl.ir.types import TensorType
from tests.test_random_programs import check, numbers

MAP, VECTOR = TensorType((6, 2, 3)), TensorType((6,))


def alone(*shape: int) -> TensorType:
    return TensorType(shape, batched=False)


@pytest.mark.parametrize(
    ("operand", "full", "element"),
    [
        (MAP, MAP, "offsets"),
        (VECTOR, VECTOR, "offsets"),
        (VECTOR, MAP, "offsets // 36 * 6 + column % 6"),
        (TensorType((6, 1, 1)), MAP, "offsets // 36 * 6 + column % 6"),
        (alone(6), MAP, "column % 6"),
        (alone(6), VECTOR, "column % 6"),
        (alone(6), alone(6), "offsets"),
        (alone(6, 2, 3), MAP, "offsets % 36"),
        (alone(1), MAP, "0"),
        (alone(2, 3), MAP, None),
        (TensorType((6, 2, 1)), MAP, None),
    ],
)
def test_where_an_operand_finds_its_element(
    operand: TensorType, full: TensorType, element: str | None
) -> None:
    assert element_of(operand, full) == element


#: of 130 channels, which are more than a tile has columns
MANY_CHANNELS = ("CONV(130, F=1)", "POOL", "DWCONV", "PAD(1)", "LOCAL(129, F=2)")


def is_map(example: tuple[str, str]) -> bool:
    shape, _ = example
    return "x" in shape


@pytest.mark.parametrize(
    ("shape", "layer"),
    [example for cls in LAYERS.values() for example in [*filter(is_map, cls.examples)][:1]]
    # more channels than a tile has columns
    + [
        ("130@3x2", layer)
        for layer in ("CONV(130, F=1)", "POOL", "DWCONV", "PAD(1)", "LOCAL(129, F=2)")
    ],
)
def test_the_columns_of_a_kernel_are_its_channels(shape: str, layer: str) -> None:
    """One PRELU is fused behind the layer's kernel, the other's gradient behind its gradient's."""
    net = convdsl.compile_text(f"input {shape} net Example = PRELU - {layer} - PRELU")
    check(net, numbers(net.graph, batch=2, seed=0))
