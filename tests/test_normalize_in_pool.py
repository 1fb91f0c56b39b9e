"""LRN and the max pooling behind it as one kernel: same answers, fewer bytes, and where."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import Tensor

from convdsl.codegen.launches import Part
from convdsl.codegen.traffic import launch_moves
from convdsl.compiler import Network, compile_text
from convdsl.ir.group import members
from convdsl.ops._normalized_pool import NormalizedPool
from convdsl.ops.lrn import LocalResponseNorm
from convdsl.ops.maxpool import MaxPool
from convdsl.pipeline import OPTIONAL, PIPELINE
from tests.op_driver import error, kernels, reference
from tests.test_merge_siblings import same_answers
from tests.test_prologues import of_training
from tests.test_traffic import BATCH, HALF, agree, step

ALEXNET = LocalResponseNorm(5, 5e-4, 0.75, 2.0)
PAIRS = [
    (ALEXNET, MaxPool(3, 2), (2, 6, 7, 9)),
    (LocalResponseNorm(3, 5.0, 2.0, 0.5), MaxPool(3, 2, pad=1), (1, 130, 4, 5)),
    (LocalResponseNorm(11, 3.0, 1.0), MaxPool(2), (3, 5, 4, 6)),
    (ALEXNET, MaxPool(3, 2, round="ceil"), (2, 3, 6, 8)),
    (ALEXNET, MaxPool(3, 2, axes=1), (2, 9, 7)),
    (ALEXNET, MaxPool(2), (0, 4, 4, 4)),
]


def program(text: str, shape: str = "3@9x11") -> Network:
    return compile_text(f"input {shape}\nnet Example = {text}\n")


def pairs(network: Network) -> int:
    nodes = [
        m for graph in (network.fused, network.inference) for n in graph.nodes for m in members(n)
    ]
    return sum(isinstance(node.op, NormalizedPool) for node in nodes)


@pytest.mark.parametrize(("norm", "pool", "shape"), PAIRS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_kernel_agrees_with_torch_and_to_the_bit_with_the_two_kernels(
    norm: LocalResponseNorm, pool: MaxPool, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x: Tensor = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    y, index = kernels(NormalizedPool(norm, pool), x)
    (z,) = kernels(norm, x)
    for ours, theirs in zip((y, index), kernels(pool, z), strict=True):
        assert torch.equal(ours, theirs)
    expected, _ = reference(NormalizedPool(norm, pool), x.double())
    assert error(y, expected) < (1e-6 if dtype is torch.float32 else 1e-3)


def test_what_is_no_number_wins_and_stays_in_its_window_of_channels() -> None:
    x = torch.ones(1, 9, 4, 4)
    x[0, 4, 1, 1] = float("nan")
    y, _ = kernels(NormalizedPool(LocalResponseNorm(3), MaxPool(2)), x)
    assert y.isnan().nonzero().tolist() == [[0, c, 0, 0] for c in (3, 4, 5)]


#: as of AlexNet on two GPUs
TEXT = "CONV(8, 3) - RELU - LRN - POOL(3, S=2) - CONV(6, 3, P=0) - RELU - FC(3)"


def test_kernels_train_as_in_torch() -> None:
    network = program(f"{TEXT}, SOFTMAX")
    assert pairs(network) == 2
    ours, torchs = (of_training(network, t, (3, 9, 11), 2) for t in ("triton", "torch"))
    for one, other in zip(ours, torchs, strict=True):
        scale = max(float(other.abs().max()), 1.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)


OTHERS = [name for name, _ in PIPELINE if name in OPTIONAL - {"normalize_in_pool"}]


@pytest.mark.parametrize(
    "left_out", [c for n in (0, 1, len(OTHERS)) for c in combinations(OTHERS, n)]
)
def test_any_subset_of_passes_gives_the_same_gradients(left_out: tuple[str, ...]) -> None:
    same_answers(program(TEXT, "3@9x7"), True, *left_out)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("CONV(8) - RELU - LRN - POOL(3, S=2) - CONV(4)", 2),
        ("CONV(8) - LRN - POOL - CONV(4)", 2),
        # the other order, another pooling, something between
        ("CONV(8) - POOL(3, S=2) - LRN - CONV(4)", 0),
        ("CONV(8) - LRN - AVGPOOL(3, S=2) - CONV(4)", 0),
        ("CONV(8) - LRN - RELU - POOL(3, S=2) - CONV(4)", 0),
        # windows that overlap more, a map that others read, a result
        ("CONV(8) - LRN - POOL(3, S=1, P=1) - CONV(4)", 0),
        ("CONV(8) - LRN as t - ADD{ POOL(3, S=1, P=1) | @t } - CONV(4)", 0),
        ("CONV(8) - LRN as t - CONCAT{ POOL - UPSAMPLE | @t } - CONV(4)", 0),
        ("CONV(8) - LRN as t - POOL output other = @t", 0),
    ],
)
def test_which_pairs_are_one_kernel(text: str, count: int) -> None:
    network = program(text, "3@8x8")
    assert pairs(network) == count
    assert not pairs(replace(network, without=("normalize_in_pool",)))


def test_the_normalised_map_is_neither_stored_nor_read() -> None:
    network = program(f"{TEXT}, SOFTMAX")
    agree(step(network), list(launch_moves(network.fused, network.triton, BATCH, HALF)))
    plain = replace(network, without=("normalize_in_pool",))
    forward = [
        sum(m.total for m in launch_moves(x.fused, x.triton, BATCH, HALF, [Part.FORWARD]))
        for x in (plain, network)
    ]
    # z was written by one kernel and read by the next, x is read by either
    assert forward[0] - forward[1] == BATCH * HALF * 2 * (9 * 11 * 8)
