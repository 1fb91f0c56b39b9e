"""How weights start, what the loss adds for them, and the bound of their norm."""

import pytest
import torch
import torch.nn.functional as F

from convdsl.compiler import compile_text
from convdsl.diagnostics import CompileError

TARGETS = ("torch", "triton")


@pytest.mark.parametrize(
    "text, std",
    [
        ("glorot_normal", (2 / (27 + 288)) ** 0.5),
        ("glorot_uniform", (2 / (27 + 288)) ** 0.5),
        ("he_normal", (2 / 27) ** 0.5),
        ("he_uniform", (2 / 27) ** 0.5),
        ("lecun_normal", (1 / 27) ** 0.5),
        ("lecun_uniform", (1 / 27) ** 0.5),
        ("(normal, 0.3)", 0.3),
        ("(uniform, 0.3)", 0.3 / 3**0.5),
        ("(truncated_normal, 0.3)", 0.3 * 0.8796),
        ("zeros", 0.0),
        ("0.25", 0.0),
    ],
)
def test_initialiser_has_its_spread(text, std):
    """Fans of CONV(32) on 3 channels: 3*3*3 = 27 in, 3*3*32 = 288 out (Glorot; He; LeCun)."""
    torch.manual_seed(0)
    network = compile_text(f"input 3@8x8\nnet = CONV(32, init={text})")
    draws = torch.stack([network.module("cpu").conv.weight for _ in range(8)])
    assert draws.std().item() == pytest.approx(std, rel=0.03, abs=1e-9)
    mean = 0.25 if text == "0.25" else 0.0
    assert draws.mean().item() == pytest.approx(mean, abs=0.02)


def test_orthogonal_and_biases():
    model = compile_text("input 12\nnet = FC(6, init=orthogonal, bias_init=0.5)").module("cpu")
    weight = model.fc.weight
    assert torch.allclose(weight @ weight.mT, torch.eye(6), atol=1e-5)
    assert torch.equal(model.fc.bias, torch.full((6,), 0.5))


@pytest.mark.parametrize("target", TARGETS)
def test_penalties_are_part_of_the_loss(target):
    text = "input 2@4x4\nnet = CONV(3, l1=0.01) - RELU - FC(4, l2=0.1), SOFTMAX"
    model = compile_text(text).module("cpu", target=target)
    x, labels = torch.randn(5, 2, 4, 4), torch.randint(4, (5,))
    loss = model(x, labels)
    conv, fc = model.conv.weight, model.fc.weight
    penalty = 0.01 * conv.abs().sum() + 0.1 * fc.square().sum()
    assert loss.item() == pytest.approx(
        (F.cross_entropy(model(x), labels) + penalty).item(), rel=1e-5
    )
    with_penalty = torch.autograd.grad(loss, (conv, fc))
    without = torch.autograd.grad(F.cross_entropy(model(x), labels), (conv, fc))
    assert torch.allclose(with_penalty[0] - without[0], 0.01 * conv.sign(), atol=1e-5)
    assert torch.allclose(with_penalty[1] - without[1], 0.2 * fc, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_norm_is_bounded_after_every_step(target):
    text = "input 2@4x4\nnet = CONV(3, max_norm=0.5) - RELU - FC(4), SOFTMAX"
    torch.manual_seed(0)
    model = compile_text(text).module("cpu", target=target)
    x, labels = torch.randn(5, 2, 4, 4), torch.randint(4, (5,))
    with torch.no_grad():
        model.conv.weight[0] *= 10
        model.conv.weight[1] *= 0.01
    kept = model.conv.weight[1].clone()
    direction = F.normalize(model.conv.weight[0].flatten(), dim=0)
    loss = model(x, labels)
    model(x, labels).backward()  # a second call must not disturb the first one's backward
    loss.backward()
    norms = model.conv.weight.detach().flatten(1).norm(dim=1)
    assert norms[0].item() == pytest.approx(0.5, rel=1e-5)
    assert torch.allclose(F.normalize(model.conv.weight[0].flatten(), dim=0), direction, atol=1e-6)
    assert torch.equal(model.conv.weight[1], kept)
    before = model.conv.weight.detach().clone()
    model(x)
    assert torch.equal(model.conv.weight, before), "a second projection changes no bit"


def test_shared_weights_are_penalised_once():
    text = "input 6\nmodule m = FC(6, l2=0.5) - RELU\nnet = m - m - FC(2), SOFTMAX"
    model = compile_text(text).module("cpu")
    weights = [p for name, p in model.named_parameters() if name.startswith("m.")]
    assert model.penalty().item() == pytest.approx(0.5 * weights[0].square().sum().item())


def test_no_penalty_costs_nothing():
    model = compile_text("input 6\nnet = FC(2), SOFTMAX").module("cpu")
    assert model.penalty() == 0.0
    assert (
        "PENALTIES = " not in compile_text("input 6\nnet = FC(2)").emit("torch").split("class ")[-1]
    )


@pytest.mark.parametrize(
    "argument",
    [
        "init=banana",
        "init=(normal, -1)",
        "init=normal",
        "l2=-1",
        "max_norm=0",
        "l1=true",
        "bias_init=(he_normal, 2)",
    ],
)
def test_unfit_arguments_are_errors(argument):
    with pytest.raises(CompileError) as error:
        compile_text(f"input 6\nnet = FC(2, {argument})")
    assert error.value.diagnostics[0].code in ("E204", "E205")


@pytest.mark.parametrize("target", TARGETS)
def test_activity_penalty_is_part_of_the_loss_in_training(target):
    text = """
    input 2@4x4
    net = CONV(3) - RELU - ACTIVITY(l1=0.01, l2=0.1) - POOL - FC(4), SOFTMAX
    """
    torch.manual_seed(0)
    model = compile_text(text).module("cpu", target=target)
    x, labels = torch.randn(5, 2, 4, 4), torch.randint(4, (5,))
    weight, bias = model.conv.weight, model.conv.bias
    y = F.relu(F.conv2d(x, weight, bias, padding=1))
    penalty = (0.01 * y.abs().sum() + 0.1 * y.square().sum()) / 5
    scores = F.linear(F.max_pool2d(y, 2).flatten(1), model.fc.weight, model.fc.bias)
    expected = F.cross_entropy(scores, labels) + penalty
    loss = model(x, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = torch.autograd.grad(expected, [weight, bias, model.fc.weight, model.fc.bias])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    assert model(x).shape == (5, 4)
    model.eval()
    assert model(x, labels).item() == pytest.approx(
        F.cross_entropy(scores, labels).item(), rel=1e-5
    )
    assert model.predict(x).shape == (5, 4)


def test_activity_is_no_output_anyone_sees():
    network = compile_text("input 6\nnet = ACTIVITY(l2=0.1) - FC(2) - ACTIVITY(l1=1) as last")
    assert [o.name for o in network.graph.results_shown] == ["output"]
    assert "penalty" not in network.table()
    assert len(network.to_dict()["outputs"]) == 1
