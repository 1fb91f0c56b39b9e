"""`Network.fold`: the same answers with batch normalisation inside the weights before it."""

import pytest
import torch
from torch import Tensor, nn

import convdsl
from convdsl.compiler import Network

PROGRAMS = {
    "with and without a bias": (
        "input 3@9x7 default CONV(P=same)\n"
        "net N = CONV(5, bias=false) - BN - RELU - CONV(4, F=1) - BN(eps=0.01) - FC(6) - BN"
        " - FC(3), SOFTMAX",
        3,
    ),
    "groups, depthwise and separable": (
        "input 4@7x6 net N = CONV(8, groups=2, bias=false) - BN - DWCONV - BN - RELU"
        " - SEPCONV(6) - BN - GAP - FC(2), SOFTMAX",
        3,
    ),
    "a sequence": ("input 2@9 net N = CONV1D(5, S=2) - BN - RELU - FC(2), SOFTMAX", 1),
    "residual": (
        "input 4@6x6 net N = ADD{CONV(4, bias=false) - BN - RELU - CONV(4, bias=false) - BN | ID}"
        " - RELU - GAP - FC(3), SOFTMAX",
        2,
    ),
}
#: what cannot be folded: transposed filters, own ones at every place, what another layer reads,
#: what is behind another layer, a module used twice
KEPT = {
    "transposed": "input 3@4x4 net N = UPCONV(3) - BN - FC(2), SOFTMAX",
    "local": "input 3@4x4 net N = LOCAL(2) - BN - FC(2), SOFTMAX",
    "per position": "input 3@4x4 net N = CONV(2, bias=position) - BN - FC(2), SOFTMAX",
    "read twice": "input 3@4x4 net N = CONV(3) as y - BN - ADD{ID | @y} - FC(2), SOFTMAX",
    "first": "input 3@4x4 net N = BN - CONV(3) - RELU - BN - FC(2), SOFTMAX",
    "shared": "input 3@4x4 module m = CONV(3) - BN net N = m - m - FC(2), SOFTMAX",
}


def trained(network: Network, target: str = "torch", **options: object) -> nn.Module:
    """A module with weights and running statistics of every size, in training mode."""
    torch.manual_seed(0)
    model = network.module(device="cpu", target=target, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(torch.rand(tensor.shape) + 0.2)
    return model


def batch(network: Network) -> Tensor:
    return torch.randn(5, *network.graph.inputs[0].type.shape)


@pytest.mark.parametrize("case", PROGRAMS)
@pytest.mark.parametrize("target", ["torch", "triton"])
def test_answers_stay_the_same(case: str, target: str) -> None:
    text, count = PROGRAMS[case]
    network = convdsl.compile_text(text)
    model, x = trained(network, target), batch(network)
    folded = network.fold(model)
    assert not folded.training and model.training
    running = [name for name in model.state_dict() if name.endswith("running_mean")]
    left = [name for name in folded.state_dict() if name.endswith("running_mean")]
    assert len(running) - len(left) == count
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", KEPT)
def test_what_cannot_be_folded_is_kept(case: str) -> None:
    network = convdsl.compile_text(KEPT[case])
    model, x = trained(network), batch(network)
    folded = network.fold(model)
    assert folded.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(folded(x), model.eval()(x))


def test_it_is_a_module_of_its_own() -> None:
    network = convdsl.compile_text(PROGRAMS["residual"][0])
    model, x = trained(network), batch(network)
    folded = network.fold(model)
    before = folded(x)
    nn.init.zeros_(next(model.parameters()))
    assert torch.equal(folded(x), before)
    assert not any(p.requires_grad for p in folded.parameters())


def test_it_is_like_the_trained_one() -> None:
    network = convdsl.compile_text(PROGRAMS["residual"][0])
    model = trained(network, dtype=torch.bfloat16, layout="NHWC")
    folded, x = network.fold(model), batch(network).permute(0, 2, 3, 1)
    assert folded(x).dtype == torch.bfloat16
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=0.1, atol=0.1)
    double = trained(network).double()
    x = batch(network).double()
    torch.testing.assert_close(network.fold(double)(x), double.eval()(x))


@pytest.mark.parametrize("target", ["torch", "triton"])
def test_bounds_hold_before_the_fold_and_not_behind_it(target: str) -> None:
    """What a step took over its bound is shrunk first; a folded weight may be longer."""
    text = "input 3@5x5 net N = CONV(4, max_norm=0.5) - BN - RELU - FC(3, max_norm=1), SOFTMAX"
    network = convdsl.compile_text(text)
    model, x = trained(network, target), batch(network)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.fill_(0.01)  # so that the fold makes the filters ten times as long
    folded = network.fold(model)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded.predict(x), model.predict(x), rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_heads() -> None:
    """What weights add to a loss is training's, and folded ones are no longer those."""
    text = "input 3@5x5 net N = CONV(4{}) - BN - RELU - FC(3{}), SOFTMAX"
    plain, penalised = (
        convdsl.compile_text(text.format(*options))
        for options in (("", ""), (", l2=0.1", ", l1=0.1"))
    )
    x, y = batch(plain), torch.tensor([0, 1, 2, 0, 1])
    losses = [network.fold(trained(network))(x, y) for network in (plain, penalised)]
    assert torch.equal(*losses)


def test_a_module_of_another_network_is_refused() -> None:
    network = convdsl.compile_text(PROGRAMS["residual"][0])
    other = convdsl.compile_text(PROGRAMS["a sequence"][0])
    with pytest.raises(ValueError, match="this is no module of N"):
        network.fold(other.module(device="cpu"))
    with pytest.raises(ValueError, match="this is no module of N"):
        network.fold(nn.Linear(2, 2))
