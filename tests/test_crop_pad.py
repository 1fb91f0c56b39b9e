"""CROP, PAD and SHUFFLE against torch: kernels forward and backward, offsets, refusals."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.ir.op import ShapeError
from convdsl.ir.types import TensorType
from convdsl.ops._copy_window import CopyWindow
from convdsl.ops.crop import Crop
from convdsl.ops.pad import Pad
from convdsl.ops.shuffle import Shuffle
from tests.op_driver import error, forward_backward, kernels


def check(layer, x, expected, **options):
    """Kernels give ``expected`` and autograd's gradient of it, to the bit: numbers only move."""
    leaf = x.clone().requires_grad_()
    theirs = expected(leaf)
    dy = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    (theirs_dx,) = torch.autograd.grad(theirs, leaf, dy)
    (y,), (dx,) = forward_backward(layer, [x], dy, **options)
    assert y.dtype is dx.dtype is x.dtype
    assert torch.equal(y, theirs.detach()) and torch.equal(dx, theirs_dx)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "size, kept, start",
    [((8, 6), (4, 2), (2, 2)), ((7, 5), (4, 5), (1, 0)), ((6, 1), (3, 1), (1, 0))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_crop_keeps_the_middle(size, kept, start, dtype):
    (top, left), (height, width) = start, kept
    middle = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    check(Crop(kept), random(2, 3, *size).to(dtype), lambda x: x[middle])


def test_crop_and_pad_of_a_sequence():
    x = random(2, 3, 9)
    check(Crop(4, axes=1), x, lambda x: x[:, :, 2:6])
    check(Pad(2, 0.5, axes=1), x, lambda x: F.pad(x, (2, 2), value=0.5))
    check(Pad((3, 0), axes=1), x, lambda x: F.pad(x, (3, 0)))


@pytest.mark.parametrize(
    "pad, sides",
    [
        (1, (1, 1, 1, 1)),
        (0, (0, 0, 0, 0)),
        ((2, 1), (1, 1, 2, 2)),
        (((1, 0), (0, 3)), (0, 3, 1, 0)),
        ((2, (0, 1)), (0, 1, 2, 2)),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_pad_is_torchs(pad, sides, value):
    check(Pad(pad, value), random(2, 3, 3, 4), lambda x: F.pad(x, sides, value=value))


def test_channels_and_batches_that_fill_no_block():
    for n, channels in ((0, 3), (1, 1), (3, 130)):
        x = random(n, channels, 3, 3)
        check(Crop(1), x, lambda x: x[:, :, 1:2, 1:2])
        check(Pad(1, 2.0), x, lambda x: F.pad(x, (1, 1, 1, 1), value=2.0))


def test_moved_numbers_may_be_anything():
    x = torch.tensor([[[[float("nan"), float("inf")], [-0.0, -float("inf")]]]])
    (y,) = kernels(Pad(1, 7.0), x)
    assert error(y, F.pad(x, (1, 1, 1, 1), value=7.0)) == 0.0
    (back,) = kernels(CopyWindow((1, 1), TensorType((1, 2, 2))), y)
    assert error(back, x) == 0.0


def test_the_sizes_of_u_net():
    """The four crops of Ronneberger et al. (2015), figure 1."""
    for size, kept in ((64, 56), (136, 104), (280, 200), (568, 392)):
        layer, x = Crop(kept), TensorType((64, size, size))
        assert layer.shape(x).shape == (64, kept, kept)
        assert layer.start(x) == ((size - kept) // 2,) * 2


def test_crop_can_follow_another_map():
    chain = "POOL(2) as small - ADD{ ID | @small - PAD(2) - CROP((@small.H, @small.W)) }"
    graph = compile_text(f"input 2@9x8\nnet A = {chain}\n").graph
    assert graph.outputs[0].value.type.shape == (2, 4, 4)


@pytest.mark.parametrize("shape", [(6, 2, 3), (6, 5), (6,), (260, 1, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_shuffle_is_shuffle_nets(shape, groups):
    def expected(x):
        whole = x.reshape(*x.shape[:2], -1, 1)
        return F.channel_shuffle(whole, groups).reshape(x.shape)

    check(Shuffle(groups), random(2, *shape), expected)


def test_shuffle_twice_with_the_groups_exchanged_is_nothing():
    x = random(1, 12, 2, 2)
    (once,) = kernels(Shuffle(3), x)
    assert not torch.equal(once, x)
    assert torch.equal(kernels(Shuffle(4), once)[0], x)


@pytest.mark.parametrize(
    "layer, shape, code, argument",
    [
        (Crop(4), (10,), "E214", None),
        (Crop(4), (2, 5, 3), "E212", "size"),
        (Crop((2, 2)), (2, 5), "E204", "size"),
        (Pad(1), (10,), "E214", None),
        (Pad(((1, 0), (0, 1))), (2, 5), "E204", "pad"),
        (Shuffle(4), (6, 2, 2), "E213", "groups"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shape, code, argument):
    with pytest.raises(ShapeError) as refusal:
        layer.shape(TensorType(shape))
    assert (refusal.value.code, refusal.value.argument) == (code, argument)
    assert refusal.value.help
