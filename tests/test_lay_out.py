"""Where maps are small beside their filters, plain PyTorch has them channels first."""

import pytest
import torch

import convdsl
from convdsl.passes import lay_out as module
from convdsl.passes.lay_out import lay_out

PROGRAM = """\
input 3@8x8
net N = CONV(4) - POOL - CONV(6) - RELU - CONV(6) - ADD{CONV(6) - BN | ID} - RELU - GAP
  - FC(3), SOFTMAX
"""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUMBERS", 6 * 4 * 9)
    monkeypatch.setattr(module, "PIXELS", 16)


def test_maps_are_laid_once_and_stay_so() -> None:
    """From 8x8 to 4x4; all that follows the first such convolution lies as it does."""
    net = convdsl.compile_text(PROGRAM)
    text = net.emit("torch")
    assert text.count(".contiguous()") == 1
    assert text.index("padding=(1, 1))") < text.index(".contiguous()")
    model = net.module(device="cpu", target="torch")
    assert model.CHANNELS_LAST == ("conv.weight",)
    strides = [p.stride() for p in model.parameters() if p.dim() == 4]
    assert strides == [(27, 1, 9, 3), (36, 9, 3, 1), (54, 9, 3, 1), (54, 9, 3, 1)]


def test_a_map_that_two_such_convolutions_read_is_laid_once() -> None:
    net = convdsl.compile_text(
        "input 8@4x4 net N = POOL(3, S=1, P=1) - ADD{CONV(6) | CONV(6)} - FC(2), SOFTMAX"
    )
    laid = lay_out(net.graph)
    assert [n.op.title for n in laid.nodes].count("layout") == 1


def test_products_of_pixels_and_steps_down_stay_as_they_are() -> None:
    net = convdsl.compile_text(
        "input 32@8x8 net N = CONV(32, S=2) - CONV(64, F=1) - FC(2), SOFTMAX"
    )
    assert "layout" not in [n.op.title for n in lay_out(net.graph).nodes]


def test_numbers_and_gradients_stay_the_same() -> None:
    net = convdsl.compile_text(PROGRAM)
    plain = convdsl.compile_text(PROGRAM, passes=["pool_first"])
    one, other = (n.module(device="cpu", target="torch") for n in (net, plain))
    other.load_state_dict(one.state_dict())
    x, y = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    for model in (one, other):
        model(x, y).backward()
    torch.testing.assert_close(one(x), other(x), rtol=1e-5, atol=1e-6)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_who_wants_channels_first_gets_them_everywhere() -> None:
    model = convdsl.compile_text(PROGRAM).module(device="cpu", target="torch")
    x = torch.randn(2, 3, 8, 8)
    before = model(x)
    model.to(memory_format=torch.contiguous_format)
    assert model.memory_format(dict(model.named_parameters())) == torch.preserve_format
    torch.testing.assert_close(model(x), before)
