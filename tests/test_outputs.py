"""Networks with several outputs and heads: loss, labels, modes, figures; on both targets."""

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convdsl.compiler import Network, compile_text
from convdsl.ir.graph import Role
from convdsl.reference import run_forward
from convdsl.runtime.labels import loss_dtype
from convdsl.runtime.support import started

TARGETS = pytest.mark.parametrize("target", ["torch", "triton"])
#: a trunk with an auxiliary classifier that inference does not have, and a second task
GOOGLE = """
input 3@6x6
net Google = CONV(4) - RELU - POOL as mid - CONV(4) - RELU - GAP - FC(5), SOFTMAX(weight=2)
output aux = @mid - GAP - FC(5), SOFTMAX(weight=0.3, only=training)
output tags = @mid - FC(3), SIGMOID(pos_weight=(1, 2, 0.5))
"""
SAME = """
input 8
net Same = FC(6) - RELU as mid - FC(4), SOFTMAX(class_weights=(1, 2, 3, 4), label_smoothing=0.1)
output aux1 = @mid - FC(4), SOFTMAX(weight=0.3, only=training)
output aux2 = @mid - FC(4), SVM(weight=0.1, only=training)
"""


def make(text: str, target: str, **options: Any) -> tuple[Network, Any]:
    torch.manual_seed(0)
    net = compile_text(text)
    return net, net.module(device="cpu", target=target, **options)


def google_batch(n: int = 4) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(5, (n,), generator=generator)
    tags = torch.randint(2, (n, 3), generator=generator).float()
    x = torch.randn(n, 3, 6, 6, generator=generator)
    return x, {"output": y, "aux": (y + 1) % 5, "tags": tags}


def oracle(
    net: Network, model: nn.Module, x: Tensor, labels: dict[str, Tensor], training: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and the gradients of the parameters by autograd in float64, head by head."""
    graph = net.graph
    parameters = {
        p.path: started(p.value.type.shape, p.initializer.function, p.initializer.arguments)
        if p.role is Role.CONSTANT
        else model.get_parameter(p.path).detach()
        for p in graph.parameters
    }
    parameters = {path: p.double() for path, p in parameters.items()}
    leaves = {p.path: parameters[p.path].requires_grad_() for p in graph.learned}
    values = run_forward(graph, [x.double()], parameters, training=training)
    loss = torch.zeros((), dtype=torch.float64)
    for output in graph.outputs:
        if output.head is not None and (training or not output.training_only):
            y = labels[output.name]
            names = {f"c{i}": parameters[c.path] for i, c in enumerate(output.constants)}
            scope = {"x": values[output.value], "y": y.double() if y.is_floating_point() else y}
            text = output.head.loss("x", "y", *names)
            term = eval(text, {"torch": torch, "F": nn.functional, **scope, **names})
            loss = loss + output.head.weight * term
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), {k: g for k, g in zip(leaves, found, strict=True) if g is not None}


@TARGETS
@pytest.mark.parametrize("training", [True, False])
def test_weighted_heads_add_up_and_share_the_trunk(target: str, training: bool) -> None:
    net, model = make(GOOGLE, target)
    x, labels = google_batch()
    model.train(training)
    loss = model(x, labels)
    loss.backward()
    expected, gradients = oracle(net, model, x, labels, training)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for path, theirs in gradients.items():
        ours = model.get_parameter(path).grad
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    unused = [p for p in dict(model.named_parameters()) if p not in gradients]
    assert unused == ([] if training else ["aux.fc.weight", "aux.fc.bias"])
    for path in unused:
        found = model.get_parameter(path).grad
        assert found is None or not found.any()


@TARGETS
def test_every_way_to_give_labels_means_the_same(target: str) -> None:
    _, model = make(GOOGLE, target)
    x, labels = google_batch()
    expected = model(x, labels)
    assert torch.equal(model(x, tuple(labels.values())), expected)
    assert torch.equal(model(x, list(labels.values())), expected)
    model.eval()
    expected = model(x, labels)
    assert torch.equal(model(x, tuple(labels.values())), expected)
    del labels["aux"]
    assert torch.equal(model(x, labels), expected)


@TARGETS
def test_one_tensor_does_for_heads_that_want_the_same(target: str) -> None:
    net, model = make(SAME.replace("SVM", "SOFTMAX"), target)
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 3])
    loss = model(x, y)
    assert torch.equal(loss, model(x, (y, y, y)))
    names = [o.name for o in net.graph.outputs]
    expected, _ = oracle(net, model, x, dict.fromkeys(names, y), training=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_heads_that_ignore_different_labels_do_not_want_the_same() -> None:
    _, model = make(SAME, "torch")
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 3])
    with pytest.raises(ValueError, match=r"different labels: give a dict or a tuple \(output, aux"):
        model(x, y)
    assert model.eval()(x, y).isfinite()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ((torch.zeros(2),), r"1 labels were given for 3 heads: output, aux, tags"),
        ({"aux": torch.zeros(2)}, r"labels for the output 'output' are missing"),
        ({"tag": torch.zeros(2)}, r"no head on an output 'tag'; heads: output, aux, tags"),
        (torch.zeros(2, dtype=torch.int64), r"give a dict or a tuple"),
        ({"aux": 5}, r"labels of aux must be a torch.Tensor, got int"),
        ({"aux": torch.tensor([0, 5])}, r"label 5 of aux is outside 0\.\.4"),
        ({"aux": torch.tensor([0, 1, 2])}, r"labels of aux must have shape \(2,\), got \(3,\)"),
        ({"aux": torch.tensor([0, 1], dtype=torch.int32)}, r"got torch.int32; .*y.long\(\)"),
        ({"tags": torch.zeros(2)}, r"labels of tags must have shape \(2, 3\), got \(2,\)"),
        ({"tags": torch.full((2, 3), 2.0)}, r"labels of tags must lie in 0\.\.1"),
        ({"tags": torch.zeros(2, 3, dtype=torch.complex64)}, r"must be real numbers"),
        ({"tags": torch.zeros(2, 3, device="meta")}, r"labels of tags are on meta, .* cpu"),
    ],
)
@TARGETS
def test_labels_are_refused_before_anything_runs(
    target: str, y: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = make(GOOGLE, target)
    monkeypatch.setattr(type(model), "outputs", lambda self, x: pytest.fail("it has run"))
    x, labels = google_batch(2)
    if isinstance(y, dict) and set(y) < set(labels) and "missing" not in message:
        y = {**labels, **y}
    with pytest.raises(ValueError, match=message):
        model(x, y)


@TARGETS
def test_what_comes_back_in_training_and_in_evaluation(target: str) -> None:
    _, model = make(GOOGLE, target)
    x, _ = google_batch()
    assert list(model.OUTPUTS) == ["output", "aux", "tags"]
    trained = model(x)
    assert trained._fields == ("output", "aux", "tags")
    assert [tuple(t.shape) for t in trained] == [(4, 5), (4, 5), (4, 3)]
    model.eval()
    evaluated = model(x)
    with torch.no_grad():
        inferred = model(x)
    for found in (evaluated, inferred):
        assert found.aux is None
        torch.testing.assert_close(found.output, trained.output)
        torch.testing.assert_close(found.tags, trained.tags)
    assert torch.equal(pickle.loads(pickle.dumps(inferred)).tags, inferred.tags)
    model.train()
    predicted = model.predict(x)
    assert model.training and predicted.aux is None
    torch.testing.assert_close(predicted.output, inferred.output.softmax(1))
    torch.testing.assert_close(predicted.tags, inferred.tags.sigmoid())


@TARGETS
def test_an_output_left_alone_comes_as_it_is(target: str) -> None:
    _, model = make(SAME, target)
    x = torch.randn(5, 8)
    assert len(model(x)) == 3
    model.eval()
    assert isinstance(model(x), Tensor) and model(x).shape == (5, 4)
    torch.testing.assert_close(model.predict(x), model(x).softmax(1))


@TARGETS
def test_gradients_of_outputs_that_come_back(target: str) -> None:
    """In evaluation, too, where the outputs for training only are made but not given."""
    _, model = make(GOOGLE, target)
    x, _ = google_batch()
    model.eval()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(model(x).tags.sum(), x)
    assert dx.any() and dx.isfinite().all()


def test_inference_does_not_have_what_only_training_needs() -> None:
    net = compile_text(GOOGLE)
    assert [o.name for o in net.inference.outputs] == ["output", "tags"]
    text = net.emit("triton")
    infer = text[text.index("def infer(") : text.index("class GoogleFunction")]
    body = infer[infer.index('"""') :]
    launches = body.partition("= weights\n")[2]
    assert "tags_fc" in launches and "aux_" not in launches
    plain = net.emit("torch")
    kept, rest = plain.split("        if not self.training:\n            return (fc, tags_fc)\n")
    assert "aux_" not in kept[kept.index("def outputs(self, x: Tensor)") :]
    assert "return (fc, aux_fc, tags_fc)" in rest


def test_the_figures_of_training_and_inference() -> None:
    net = compile_text(GOOGLE)
    trunk = (27 * 4 + 4) + (36 * 4 + 4) + (4 * 5 + 5) + (36 * 3 + 3)
    assert (net.parameters_count, net.parameters_at_inference) == (trunk + 25, trunk)
    macs = 27 * 4 * 36 + 36 * 4 * 9 + 4 * 5 + 36 * 3
    assert (net.macs, net.costs.macs) == (macs, macs + 4 * 5)
    table = net.table()
    assert f"{trunk + 25:,} = " in table and f"\n             {trunk:,} at inference\n" in table
    assert "per sample at inference, without aux\n" in table
    assert f"{macs + 20:,} in training\n" in table
    assert "aux 5, SOFTMAX (only in training)" in table
    assert f"{trunk + 25:,} parameters, {trunk:,} at inference" in repr(net)
    document = json.loads(net.to_json())
    totals = document["totals"]
    assert (totals["parameters"], totals["macs"]) == (trunk + 25, macs + 20)
    assert totals["inference"] == {"parameters": trunk, "macs": macs, "flops": 2 * macs}
    assert [o["training_only"] for o in document["outputs"]] == [False, True, False]
    assert [o["weight"] for o in document["outputs"]] == [2.0, 0.3, 1.0]
    # GAP and FC of aux
    assert [row["training_only"] for row in document["layers"]].count(True) == 2


def test_a_net_without_such_outputs_says_nothing_of_them() -> None:
    net = compile_text("input 8\nnet a = FC(4), SOFTMAX")
    assert "inference" not in net.table() and "inference" not in repr(net)
    assert net.parameters_at_inference == net.parameters_count == 36


@TARGETS
def test_constants_are_buffers_that_are_not_saved(target: str) -> None:
    _, model = make(SAME, target)
    assert torch.equal(model.get_buffer("class_weights"), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert "class_weights" not in model.state_dict()
    meta = copy.deepcopy(model).to("meta")
    assert meta.get_buffer("class_weights").device.type == "meta"
    twin = pickle.loads(pickle.dumps(model))
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 3])
    assert torch.equal(twin(x, (y, y, y)), model(x, (y, y, y)))
    half = copy.deepcopy(model).half()
    assert half(x, (y, y, y)).item() == pytest.approx(model(x, (y, y, y)).item(), rel=1e-2)


@TARGETS
def test_a_loss_that_inference_mode_asks_for_leaves_training_as_it_was(target: str) -> None:
    _, model = make(SAME, target)
    x, y = torch.randn(5, 8), torch.tensor([0, 1, 2, 3, 3])
    with torch.inference_mode():
        model.eval()(x, y)
    model.train()(x, (y, y, y)).backward()
    assert model.get_parameter("fc.weight").grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_plain_target_works_out_losses_in_float32_at_least(dtype: torch.dtype) -> None:
    _, model = make("input 1\nnet a = FC(1), MSE", "torch", dtype=dtype)
    nn.init.constant_(model.get_parameter("fc.weight"), 300.0)
    x, y = torch.ones(2, 1), torch.zeros(2, 1)
    loss = model(x, y)  # 90,000 is more than float16 holds
    assert loss.dtype == loss_dtype(torch.empty(0, dtype=dtype))
    assert loss.item() == pytest.approx(90_000, rel=1e-2)


@TARGETS
@pytest.mark.parametrize("head", ["MSE", "SIGMOID(pos_weight=(1, 2, 3))", "SOFTMAX"])
@pytest.mark.parametrize("shape", ["2@4x5", "2@6"])
def test_labels_of_maps_and_sequences_in_either_layout(target: str, head: str, shape: str) -> None:
    layer = "CONV(3)" if "x" in shape else "CONV1D(3)"
    text = f"input {shape}\nnet a = {layer}, {head}"
    net, model = make(text, target)
    _, other = make(text, target, layout="NHWC")
    other.load_state_dict(model.state_dict())
    (kind,) = (v.type for v in net.graph.inputs)
    x = torch.randn(2, *kind.shape)
    y = torch.rand(2, 3, *kind.spatial)
    moved = y.movedim(1, -1)
    if head == "SOFTMAX":
        y = moved = torch.randint(3, (2, *kind.spatial))
    loss = model(x, y)
    assert loss.item() == pytest.approx(oracle(net, model, x, {"output": y}, True)[0].item(), 1e-5)
    torch.testing.assert_close(other(x.movedim(1, -1), moved), loss)
    loss.backward()
    _, gradients = oracle(net, model, x, {"output": y}, True)
    for path, theirs in gradients.items():
        ours = model.get_parameter(path).grad.double()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@TARGETS
def test_siamese_pairs(target: str) -> None:
    text = """
    input a: 6
    input b: 6
    module tower = FC(4) - TANH - FC(3)
    net Siamese = DISTANCE{ @a - tower | @b - tower }, CONTRASTIVE(margin=2)
    """
    _, model = make(text, target)
    a, b = torch.randn(5, 6), torch.randn(5, 6)
    y = torch.tensor([1, 0, 0, 1, 0])
    d = model(a, b)
    assert d.shape == (5, 1)
    expected = (y * d[:, 0] ** 2 + (1 - y) * (2 - d[:, 0]).clamp_min(0) ** 2).mean()
    for labels in (y, y.bool(), y.float(), y[:, None], y.half()):
        torch.testing.assert_close(model(a, b, labels), expected)
    torch.testing.assert_close(model.predict(a, b), d)
    with pytest.raises(ValueError, match="1 for a similar pair and 0 for a different one"):
        model(a, b, y * 2 - 1)
    with pytest.raises(ValueError, match=r"shape \(5, 1\), got \(4, 1\)"):
        model(a, b, y[:4])


@TARGETS
def test_ignored_labels_are_no_labels_outside(target: str) -> None:
    _, model = make("input 4\nnet a = FC(3), SOFTMAX(ignore_index=255)", target)
    x, y = torch.randn(3, 4), torch.tensor([0, 255, 2])
    expected = nn.functional.cross_entropy(model(x), y, ignore_index=255)
    torch.testing.assert_close(model(x, y), expected)
    with pytest.raises(ValueError, match=r"label -100 is outside 0\.\.2"):
        model(x, torch.tensor([0, -100, 2]))


@TARGETS
def test_a_loss_scaled_up_reaches_half_precision_gradients(target: str) -> None:
    """As a GradScaler does: what is small before the scaling must not be lost already."""
    net, model = make("input 2@32x32\nnet a = CONV(2, F=1, bias=false), SOFTMAX", target)
    half = net.module(device="cpu", target=target, dtype=torch.float16)
    half.load_state_dict(model.state_dict())
    x, y = torch.randn(4, 2, 32, 32), torch.randint(2, (4, 32, 32))
    for m in (model, half):
        (m(x, y) * 65536.0).backward()
    theirs, ours = (m.get_parameter("conv.weight").grad / 65536.0 for m in (model, half))
    assert (ours - theirs).abs().max() < 5e-3 * theirs.abs().max()


def test_an_output_without_a_head_has_no_part_in_the_loss() -> None:
    text = "input 4\nnet a = FC(3) as f, SOFTMAX\noutput more = @f - RELU\n"
    _, model = make(text, "torch")
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    found = model(x)
    torch.testing.assert_close(model(x, y), nn.functional.cross_entropy(found.output, y))
    assert torch.equal(found.more, found.output.relu())
    assert torch.equal(model.predict(x).more, found.more)


def test_a_head_for_training_only_has_no_loss_in_evaluation() -> None:
    text = "input 4\nnet a = FC(3) as f\noutput more = @f - FC(2), SOFTMAX(only=training)\n"
    _, model = make(text, "torch")
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 1])
    assert model(x, y).isfinite()
    with pytest.raises(ValueError, match="for training only"):
        model.eval()(x, y)
