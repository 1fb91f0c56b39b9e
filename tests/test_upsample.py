"""UPSAMPLE against torch's F.interpolate: kernels forward and backward, one axis and two."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops.upsample import Upsample
from convdsl.report.costs import measure
from tests.op_driver import autograd, error, forward_backward, reference

MODES = [("nearest", False), ("bilinear", False), ("bilinear", True)]


def interpolated(x, scale, mode, align):
    if mode == "nearest":
        return F.interpolate(x, scale_factor=scale, mode=mode)
    word = mode if x.ndim == 4 else "linear"
    return F.interpolate(x, scale_factor=scale, mode=word, align_corners=align)


@pytest.mark.parametrize("mode, align", MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1), (2, 2), (4, 3)])
def test_kernels_agree_with_torch(mode, align, size):
    for scale in ((1, 1), (2, 2), (3, 2), (1, 5)):
        layer = Upsample(scale, mode, align)
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        expected = interpolated(x.double(), scale, mode, align)
        dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        (y,), (dx,) = forward_backward(layer, [x], dy)
        assert error(y, expected) < 1e-6, scale
        assert error(dx, autograd(layer, [x], dy)[0]) < 1e-6, scale
        assert error(reference(layer, x.double())[0], expected) == 0.0


@pytest.mark.parametrize("mode, align", MODES)
def test_sequences(mode, align):
    for length, scale in itertools.product((1, 2, 5), (1, 2, 3)):
        layer = Upsample(scale, mode, align, axes=1)
        x = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(length))
        expected = interpolated(x.double(), scale, mode, align)
        dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        (y,), (dx,) = forward_backward(layer, [x], dy)
        assert error(y, expected) < 1e-6
        assert error(dx, autograd(layer, [x], dy)[0]) < 1e-6
        assert error(reference(layer, x.double())[0], expected) == 0.0


@pytest.mark.parametrize("mode, align", MODES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_half_precision_and_batches(mode, align, n):
    layer = Upsample(2, mode, align)
    x = torch.randn(n, 130, 2, 3, generator=torch.Generator().manual_seed(0)).half()
    dy = torch.randn(n, 130, 4, 6, generator=torch.Generator().manual_seed(1)).half()
    (y,), (dx,) = forward_backward(layer, [x], dy)
    assert y.dtype is dx.dtype is torch.float16 and y.shape == dy.shape
    assert error(y, interpolated(x.double(), 2, mode, align)) < 1e-3
    assert error(dx, autograd(layer, [x], dy)[0]) < 2e-3


def test_a_large_factor_reaches_every_output_once():
    """The gradient of a sum of all outputs is scale^2 for every pixel but for the borders'."""
    layer = Upsample(16, "bilinear")
    x = torch.zeros(1, 1, 3, 3)
    dy = torch.ones(1, 1, 48, 48)
    _, (dx,) = forward_backward(layer, [x], dy)
    assert dx.sum().item() == pytest.approx(48 * 48, rel=1e-6)
    assert dx[0, 0, 1, 1].item() == pytest.approx(256, rel=1e-6)


def test_nan_and_infinity_stay_where_torch_leaves_them():
    x = torch.tensor([[[1.0, float("nan"), 3.0], [float("inf"), 5.0, 6.0]]])[None]
    for mode, align in MODES:
        (y,), _ = forward_backward(Upsample(2, mode, align), [x], torch.ones(1, 1, 4, 6))
        assert error(y, interpolated(x.double(), 2, mode, align)) < 1e-6


def test_receptive_field_keeps_its_size_and_the_step_shrinks():
    def field(chain):
        graph = compile_text(f"input 1@16x16\nnet A = POOL - {chain} - CONV(1, F=3)\n").graph
        return measure(graph).rows[-1].field.size

    # POOL 2x2: r=2, j=2; repeated: r=2, j=1; mixed: r=2+2, j=1; the convolution adds 2
    assert field("UPSAMPLE") == (4, 4)
    assert field("UPSAMPLE(2, mode=bilinear)") == (6, 6)
    assert field("ID") == (6, 6)


@pytest.mark.parametrize(
    "layer, shape, code, argument",
    [
        (Upsample(), (10,), "E214", None),
        (Upsample((2, 3)), (3, 10), "E204", "scale"),
        (Upsample(2, "nearest", True), (3, 4, 4), "E204", "align_corners"),
    ],
)
def test_what_has_no_meaning_is_refused(layer, shape, code, argument):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert (refusal.value.code, refusal.value.argument) == (code, argument)
    assert refusal.value.help


def test_a_factor_of_one_is_left_out():
    assert Upsample(1).is_identity(training=True) and Upsample((1, 1)).is_identity(training=False)
    assert not Upsample((1, 2)).is_identity(training=True)
