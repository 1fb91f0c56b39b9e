"""The lectures' rules for gradients, on the interpreted kernels, against formula and autograd.

Each test is named after the lecture and what it shows, as in test_lectures.py.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.test_lectures import grid, is_exactly, model_of


def gradients(text: str, x: Tensor, dz: Tensor, *parameters: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(dL/dX, [dL/dparameter, ...]) of the interpreted kernels, given dL/dZ."""
    model = model_of(text, "triton", *parameters)
    x = x.clone().requires_grad_()
    model(x).backward(dz)
    assert x.grad is not None
    return x.grad, [p.grad for p in model.parameters() if p.grad is not None]


def test_seed_003_gradients_of_the_3x3_by_2x2_example() -> None:
    """dL/dK = conv(X, dL/dZ), dL/dB = sum(dL/dZ), dL/dX = conv(padded(dL/dZ), rotated K)."""
    x = grid([1, 2, 3], [4, 5, 6], [7, 8, 9])
    kernel, bias = grid([1, -2], [3, 4]), torch.tensor([10.0])
    dz = grid([1, 2], [3, -4])
    program = "input 3x3x1 net = CONV(1, F=2, P=0)"
    dx, (dk, db) = gradients(program, x, dz, kernel, bias)
    # written out: dL/dK11 = dZ11*X11 + dZ12*X12 + dZ21*X21 + dZ22*X22, and so on
    is_exactly(dk[0, 0], [1 + 4 + 12 - 20, 2 + 6 + 15 - 24], [4 + 10 + 21 - 32, 5 + 12 + 24 - 36])
    assert db.item() == 1 + 2 + 3 - 4
    # dL/dX11 = dZ11*K11, dL/dX12 = dZ11*K12 + dZ12*K11, ..., dL/dX33 = dZ22*K22
    is_exactly(dx[0, 0], [1, -2 + 2, -4], [3 + 3, 4 + 6 - 6 - 4, 8 + 8], [9, 12 - 12, -16])


@pytest.mark.parametrize(
    "height, width, extent, batch, channels, filters",
    [
        (3, 3, (2, 2), 1, 1, 1),
        (6, 5, (3, 3), 2, 2, 3),
        (7, 4, (5, 2), 3, 3, 2),
        (4, 9, (1, 4), 1, 2, 2),
    ],
)
def test_seed_003_gradients_are_convolutions(
    height: int, width: int, extent: tuple[int, int], batch: int, channels: int, filters: int
) -> None:
    """The three formulas as convolutions, against our kernels and against autograd."""
    torch.manual_seed(0)
    x = torch.randn(batch, channels, height, width)
    kernel, bias = torch.randn(filters, channels, *extent), torch.randn(filters)
    dz = torch.randn(batch, filters, height - extent[0] + 1, width - extent[1] + 1)
    size = f"{extent[0]}x{extent[1]}"
    program = f"input {channels}@{height}x{width} net = CONV({filters}, F={size}, P=0)"
    dx, (dk, db) = gradients(program, x, dz, kernel, bias)

    by_formula = F.conv2d(x.transpose(0, 1), dz.transpose(0, 1)).transpose(0, 1)
    padded = F.pad(dz, (extent[1] - 1, extent[1] - 1, extent[0] - 1, extent[0] - 1))
    rotated = kernel.flip(2, 3).transpose(0, 1)
    torch.testing.assert_close(dk, by_formula, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(db, dz.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dx, F.conv2d(padded, rotated), rtol=1e-4, atol=1e-4)

    leaves = [t.double().requires_grad_() for t in (x, kernel, bias)]
    wanted = torch.autograd.grad(F.conv2d(*leaves), leaves, dz.double())
    for ours, theirs in zip((dx, dk, db), wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_seed_003_pooling_passes_the_gradient_to_the_winner_only() -> None:
    x = grid([1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4])
    dx, _ = gradients("input 4x4x1 net = POOL(2, S=2)", x, grid([10, 20], [30, 40]))
    is_exactly(dx[0, 0], [0, 0, 0, 0], [0, 10, 0, 20], [30, 0, 0, 0], [0, 0, 0, 40])


def test_seed_004_a_residual_block_adds_one_to_the_derivative() -> None:
    """Y = F(x) + x, so dY/dx = dF/dx + 1: what flows in also flows straight through."""
    torch.manual_seed(0)
    x, dy = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 5, 5)
    weights = [torch.randn(3, 3, 3, 3), torch.randn(3), torch.randn(3, 3, 3, 3), torch.randn(3)]
    inner = "CONV(3) - RELU - CONV(3)"
    plain, _ = gradients(f"input 3@5x5 net = {inner}", x, dy, *weights)
    residual, _ = gradients(f"input 3@5x5 net = ADD{{{inner} | ID}}", x, dy, *weights)
    torch.testing.assert_close(residual, plain + dy, rtol=1e-5, atol=1e-5)
