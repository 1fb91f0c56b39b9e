"""The gradients of a POOL and a CROP of one map as one kernel: same answers, fewer bytes."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from convdsl.codegen.launches import Part
from convdsl.codegen.traffic import launch_moves
from convdsl.compiler import Network, compile_text
from convdsl.ir.group import Group, members
from convdsl.ir.types import TensorType
from convdsl.ops._copy_window import CopyWindow
from convdsl.ops._unpool_beside import UnpoolBeside
from convdsl.ops.maxpool import MaxPool
from convdsl.pipeline import OPTIONAL, PIPELINE
from tests.op_driver import error, kernels, reference
from tests.test_merge_siblings import same_answers
from tests.test_prologues import of_training
from tests.test_traffic import BATCH, HALF, agree, step

#: the map, the POOL, where the window begins as `CopyWindow` counts, the window's size
CASES = [
    ((6, 8, 10), MaxPool(), (-2, -3), (4, 5)),
    ((130, 7, 5), MaxPool(3, 2), (-1, 0), (3, 5)),
    ((3, 8, 8), MaxPool(3, 1, pad=1), (0, -7), (8, 1)),
    ((1, 6, 6), MaxPool(2), (0, 0), (6, 6)),
    ((5, 6, 4), MaxPool(2), (2, 1), (9, 7)),  # of a PAD: the window goes beyond the map
    ((9, 12), MaxPool(3, 2, axes=1), (-4,), (5,)),
]


@pytest.mark.parametrize("n", [2, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "pool", "start", "size"), CASES, ids=str)
def test_the_kernel_agrees_with_torch(
    shape: tuple[int, ...],
    pool: MaxPool,
    start: tuple[int, ...],
    size: tuple[int, ...],
    dtype: torch.dtype,
    n: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, *shape, generator=generator)
    y, index = kernels(pool, x)
    dy = torch.randn(y.shape, generator=generator).to(dtype)
    d = torch.randn(n, shape[0], *size, generator=generator).to(dtype)
    op = UnpoolBeside(pool, TensorType(shape), CopyWindow(start, TensorType(shape)))
    (dx,) = kernels(op, dy, index, d)
    (expected,) = reference(op, dy.double(), index, d.double())
    assert dx.shape == x.shape
    assert n == 0 or error(dx, expected) < (1e-6 if dtype is torch.float32 else 1e-3)


def test_what_is_no_number_stays_where_it_is() -> None:
    _, index = kernels(MaxPool(), torch.arange(16.0).reshape(1, 1, 4, 4))
    dy, d = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    dy[..., 0, 0] = d[..., 0, 1] = float("nan")
    x = TensorType((1, 4, 4))
    (dx,) = kernels(UnpoolBeside(MaxPool(), x, CopyWindow((-1, -1), x)), dy, index, d)
    assert dx.isnan().nonzero().tolist() == [[0, 0, 1, 1], [0, 0, 1, 2]]


def program(text: str, shape: str = "2@12x12") -> Network:
    return compile_text(f"input {shape}\nnet Example = {text}\n")


#: as U-Net has it, with channels at which slices may lie in the whole
TEXT = (
    "CONV(8, P=0) - RELU - CONCAT{ CROP(6) | POOL - CONV(8) - RELU - UPCONV(8) - CROP(6) }"
    " - CONV(4) - RELU - CONV(2, F=1)"
)


def merged(network: Network) -> list[str]:
    """Titles of the groups that such a gradient is in."""
    return [
        node.op.title
        for node in network.fused.backward
        if any(isinstance(member.op, UnpoolBeside) for member in members(node))
    ]


def test_kernels_train_as_in_torch() -> None:
    network = program(f"{TEXT}, SOFTMAX")
    ours, torchs = (of_training(network, t, (2, 12, 12), 2) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = max(float(other.abs().max()), 1.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)


OTHERS = [name for name, _ in PIPELINE if name in OPTIONAL - {"unpool_beside"}]


@pytest.mark.parametrize(
    "left_out", [c for n in (0, 1, len(OTHERS)) for c in combinations(OTHERS, n)]
)
def test_any_subset_of_passes_gives_the_same_gradients(left_out: tuple[str, ...]) -> None:
    same_answers(program(TEXT), True, *left_out)


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        # the activation's gradient is taken of the small maps, and the slice's as it is loaded
        (TEXT, ["relu_gradient_maxpool_gradient_beside"]),
        ("CONV(8) - SWISH - CONCAT{ CROP(6) | POOL }", ["maxpool_gradient_beside_swish_gradient"]),
        ("CONV(8) - ADD{ CROP(6) | POOL }", ["maxpool_gradient_beside"]),
        # worked out for the sums and again, but not where the crop is large
        (
            "CONV(8) - BN - RELU - ADD{ CROP(6) | POOL }",
            [
                "relu_gradient_maxpool_gradient_beside_sums",
                "relu_gradient_maxpool_gradient_beside_normalize_gradient",
            ],
        ),
        (
            "CONV(8) - BN - RELU - CONCAT{ CROP(10) - CONV(8, 5, P=0) | POOL }",
            ["maxpool_gradient_beside_sums"],
        ),
        # a third reader, another pooling, a crop and no pooling
        ("CONV(8) - RELU - ADD{ CROP(6) | POOL | CONV(8, S=2) }", []),
        ("CONV(8) - RELU - ADD{ CROP(6) | AVGPOOL }", []),
        ("CONV(8) - RELU - ADD{ CROP(6) | CONV(8, S=2) }", []),
    ],
)
def test_which_gradients_are_one_kernel(text: str, titles: list[str]) -> None:
    network = program(text)
    assert merged(network) == titles
    assert not merged(replace(network, without=("unpool_beside",)))


def test_the_backward_pass_does_not_read_the_map_and_nothing_is_written_in_between() -> None:
    network = program(f"{TEXT}, SOFTMAX")
    y = next(
        m.output
        for node in network.fused.nodes
        if isinstance(node.op, Group)
        for m in node.op.nodes
        if m.op.title == "relu"
    )
    assert all(y not in node.inputs for node in network.fused.backward)
    agree(step(network), list(launch_moves(network.fused, network.triton, BATCH, HALF)))
    plain = replace(network, without=("unpool_beside", "hoist_pool_gradient"))
    backward = [
        sum(m.total for m in launch_moves(x.fused, x.triton, BATCH, HALF, [Part.BACKWARD]))
        for x in (plain, network)
    ]
    # of 10x10 pixels: unpooled, written and read, and y; of 5x5 and 6x6: pooled and cropped
    assert backward[0] - backward[1] == BATCH * HALF * 8 * (3 * 100 - 25 - 36)
