"""Generated modules: interpreted Triton and plain torch against the float64 reference."""

import ast
import copy
import pickle
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convdsl
from convdsl.codegen.torch_module import emit_torch
from convdsl.codegen.triton_module import emit_triton
from convdsl.ir.graph import Graph
from convdsl.ir.types import TensorType
from convdsl.ops.concat import Concat
from convdsl.ops.conv import Conv
from convdsl.ops.dropout import Dropout
from convdsl.ops.fc import Fc
from convdsl.ops.flatten import Flatten
from convdsl.ops.identity import Identity
from convdsl.ops.relu import Relu
from convdsl.pipeline import INFERENCE_PIPELINE, OPTIONAL, PIPELINE, run_passes
from convdsl.reference import run_forward
from convdsl.runtime.load import load_text
from tests.graphs import NETWORKS, GraphMaker, lenet_like, network, random_inputs, random_parameters


def triton_text(graph: Graph, without: tuple[str, ...] = ()) -> str:
    training = run_passes(graph, PIPELINE, without)
    inference = run_passes(graph, INFERENCE_PIPELINE, without)
    return emit_triton(training, inference, "test.cnn").text


def triton_model(graph: Graph, without: tuple[str, ...] = (), **options: object) -> nn.Module:
    model: nn.Module = load_text(triton_text(graph, without), "triton_test").Test(**options)
    return model


def torch_model(graph: Graph, **options: object) -> nn.Module:
    model: nn.Module = load_text(emit_torch(graph, "test.cnn"), "torch_test").Test(**options)
    return model


def gradients(
    graph: Graph, batch: int, model: nn.Module | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of inputs and parameters: of the model, or of the float64 oracle."""
    inputs = random_inputs(graph, batch)
    parameters = random_parameters(graph)
    if model is None:
        leaves = [x.requires_grad_() for x in (*inputs, *parameters.values())]
        output = run_forward(graph, inputs, parameters)[graph.outputs[0].value]
    else:
        model.load_state_dict({k: p.float() for k, p in parameters.items()})
        for parameter in model.parameters():
            parameter.grad = None
        leaves = [*(x.float().requires_grad_() for x in inputs), *model.parameters()]
        output = model(*leaves[: len(inputs)])
    cotangent = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    output.backward(cotangent)
    assert all(leaf.grad is not None for leaf in leaves)
    return output.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]


def check(graph: Graph, model: nn.Module, batch: int = 3, tolerance: float = 2e-5) -> None:
    expected, wanted = gradients(graph, batch)
    output, found = gradients(graph, batch, model)
    for ours, theirs in zip([output, *found], [expected, *wanted], strict=True):
        scale = max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0)
        torch.testing.assert_close(
            ours.double(), theirs, rtol=0, atol=tolerance * scale, equal_nan=True
        )


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> Graph:
    build, shape = NETWORKS[request.param]
    return network(build, shape)


def test_triton_agrees_with_the_reference(graph: Graph) -> None:
    check(graph, triton_model(graph))


def test_torch_agrees_with_the_reference(graph: Graph) -> None:
    check(graph, torch_model(graph))


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(graph: Graph, batch: int) -> None:
    check(graph, triton_model(graph), batch)
    check(graph, torch_model(graph), batch)


def test_triton_in_half_precision(graph: Graph) -> None:
    check(graph, triton_model(graph, dtype=torch.float16), tolerance=4e-3)


def test_triton_without_some_passes() -> None:
    """Most of the 728 subsets leave the same two graphs, of which one module is checked."""
    graph = network(lenet_like, (2, 8, 8))
    subsets = [c for n in (1, 4) for c in combinations(sorted(OPTIONAL), n)]
    different: dict[str, tuple[str, ...]] = {}
    for without in subsets:
        pipelines = (PIPELINE, INFERENCE_PIPELINE)
        graphs = [run_passes(graph, pipeline, without) for pipeline in pipelines]
        different.setdefault(repr(graphs), without)
    assert len(different) > 3
    for without in different.values():
        try:
            check(graph, triton_model(graph, without))
        except AssertionError as error:
            error.add_note(f"without {without}")
            raise


def test_inference_gives_the_training_output(graph: Graph) -> None:
    model = triton_model(graph)
    (x,) = random_inputs(graph, 2)
    expected = model(x.float()).detach()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x.float()), expected, rtol=1e-6, atol=1e-6)


def test_text_is_stable_and_imports_only_torch_and_triton(graph: Graph) -> None:
    for text in (triton_text(graph), emit_torch(graph, "test.cnn")):
        imports = {
            (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        roots = {(name or "").split(".")[0] for name in imports}
        assert roots <= {"torch", "triton", "typing", "collections"}
        assert max(len(line) for line in text.splitlines()) <= 100
    assert triton_text(graph) == triton_text(graph)


def test_both_targets_have_the_same_state_dict(graph: Graph) -> None:
    ours, plain = triton_model(graph).state_dict(), torch_model(graph).state_dict()
    unfused = triton_model(graph, ("fuse_epilogues",)).state_dict()
    assert list(ours) == list(plain) == list(unfused)
    assert all(ours[k].shape == plain[k].shape for k in ours)


def test_two_runs_are_bit_equal(graph: Graph) -> None:
    model = triton_model(graph)
    first, second = gradients(graph, 3, model), gradients(graph, 3, model)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_a_generated_file_runs_alone(tmp_path: Path) -> None:
    graph = network(lenet_like, (2, 8, 8))
    (tmp_path / "net.py").write_text(triton_text(graph))
    program = "import torch, net; print(tuple(net.Test()(torch.zeros(2, 2, 8, 8)).shape))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'); {program}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"TRITON_INTERPRET": "1", "HOME": str(tmp_path)},
    )
    assert done.stdout.strip() == "(2, 5)", done.stderr


# ---- randomness


def dropout_graph() -> Graph:
    return network(lambda m: m(Dropout(0.4), m(Relu(), m(Fc(50), m.inputs[0]))), (6,))


def test_dropout_is_replayed_in_the_backward_pass() -> None:
    model = triton_model(dropout_graph())
    nn.init.constant_(model.get_parameter("scope_fc.weight"), 0.5)
    x = torch.ones(40, 6, requires_grad=True)
    y = model(x)
    kept = y != 0
    assert 0.5 < kept.float().mean() < 0.7
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 3.0 / 0.6))
    y.sum().backward()
    expected = kept.float().sum(1, keepdim=True) * 0.5 / 0.6
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected.expand(40, 6))


def test_dropout_follows_torch_s_seed_and_rests_in_evaluation() -> None:
    model = triton_model(dropout_graph())
    x = torch.ones(8, 6)
    torch.manual_seed(7)
    first = model(x)
    assert not torch.equal(first, model(x))
    torch.manual_seed(7)
    assert torch.equal(first, model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.train(False)(x))


# ---- behaving as a module


def head_graph() -> Graph:
    maker = GraphMaker((2, 8, 8))
    return maker.graph(lenet_like(maker), head="SOFTMAX")


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_loss_and_prediction(make: type) -> None:
    model = make(head_graph())
    x, y = torch.randn(4, 2, 8, 8), torch.tensor([0, 4, 2, 2])
    logits = model(x)
    torch.testing.assert_close(model(x, y), nn.functional.cross_entropy(logits, y))
    probabilities = model.predict(x)
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert model.training and not probabilities.requires_grad


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_a_model_can_be_copied_and_pickled(make: type) -> None:
    model = make(head_graph())
    x, y = torch.randn(2, 2, 8, 8), torch.tensor([1, 3])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x, y), model(x, y))
        next(twin.parameters()).data.zero_()
        assert next(model.parameters()).abs().sum() > 0


def test_a_pickled_model_is_read_in_another_process(tmp_path: Path) -> None:
    model = torch_model(head_graph())
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    program = (
        "import pickle, torch; m = pickle.load(open('model.pkl', 'rb')); print(type(m).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "Test", done.stderr


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_half_runs_in_half(make: type) -> None:
    model = make(head_graph()).half()
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    y = model(torch.randn(2, 2, 8, 8))
    assert y.dtype == torch.float16


def test_parameters_stay_float32_masters() -> None:
    model = triton_model(head_graph(), dtype=torch.float16)
    loss = model(torch.randn(2, 2, 8, 8), torch.tensor([1, 3]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_any_strides_and_either_layout(make: type) -> None:
    graph = head_graph()
    model, other = make(graph), make(graph, layout="NHWC")
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 2, 8, 8)
    expected = model(x)
    for view in (
        x.repeat(2, 1, 1, 1)[::2],
        torch.stack([x, x], 4)[..., 0],
        torch.randn(3, 2, 12, 9)[:, :, 2:10, 1:],
    ):
        torch.testing.assert_close(model(view), model(view.contiguous()))
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(other(x.permute(0, 2, 3, 1)), expected)
    one = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(model(one.expand(3, 2, 8, 8)), model(one).expand(3, 5))


@pytest.mark.parametrize("make", [triton_model, torch_model])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 8, 8), None, r"one sample still needs a batch axis"),
        (torch.zeros(2, 3, 8, 8), None, r"shape \(N, 2, 8, 8\), got \(2, 3, 8, 8\)"),
        (torch.zeros(2, 2, 9, 8), None, r"got \(2, 2, 9, 8\)"),
        (torch.zeros(2, 8, 8, 2), None, r"the network reads NCHW, see the layout= argument"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), None, r"x\.float\(\) / 255"),
        (torch.zeros(2, 2, 8, 8), torch.tensor([0, 5]), r"label 5 is outside 0\.\.4"),
        (torch.zeros(2, 2, 8, 8), torch.tensor([-1, 0]), r"label -1 is outside"),
        (torch.zeros(2, 2, 8, 8), torch.tensor([0.0, 1.0]), r"dtype torch.int64"),
        (torch.zeros(2, 2, 8, 8), torch.tensor([0, 1, 2]), r"shape \(2,\), got \(3,\)"),
        ("picture", None, r"must be a torch.Tensor, got str"),
    ],
)
def test_bad_calls_are_refused_before_any_kernel(
    make: type, x: Tensor, y: Tensor | None, message: str
) -> None:
    model = make(head_graph())
    with pytest.raises(ValueError, match=message):
        model(x) if y is None else model(x, y)


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_bad_labels_are_refused_before_the_forward_pass(
    make: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(head_graph())
    monkeypatch.setattr(type(model), "outputs", lambda self, x: pytest.fail("kernels have run"))
    with pytest.raises(ValueError, match="label 7 is outside"):
        model(torch.zeros(1, 2, 8, 8), torch.tensor([7]))


@pytest.mark.parametrize("make", [triton_model, torch_model])
def test_tensors_on_another_device_are_refused(make: type) -> None:
    model = make(head_graph())
    with pytest.raises(ValueError, match="labels are on meta, the input is on cpu"):
        model(torch.zeros(1, 2, 8, 8), torch.zeros(1, dtype=torch.int64, device="meta"))
    with pytest.raises(ValueError, match="the input is on meta, the network on cpu"):
        model(torch.zeros(1, 2, 8, 8, device="meta"))


def test_double_backward_is_refused() -> None:
    model = triton_model(network(lambda m: m(Fc(2), m.inputs[0]), (3,)))
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"module\(target='torch'\)"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)


def test_backward_can_be_run_again_when_the_graph_is_retained() -> None:
    model = triton_model(head_graph())
    loss = model(torch.randn(2, 2, 8, 8), torch.tensor([1, 3]))
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    loss.backward()
    for before, parameter in zip(first, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, 2 * before)


def test_changing_a_saved_weight_before_backward_is_noticed() -> None:
    model = triton_model(network(lambda m: m(Fc(2), m.inputs[0]), (3,)))
    loss = model(torch.randn(2, 3)).sum()
    with torch.no_grad():
        model.get_parameter("scope_fc.weight").add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_network_without_a_head_has_no_loss() -> None:
    model = torch_model(network(lambda m: m(Relu(), m.inputs[0]), (3,)))
    with pytest.raises(ValueError, match="no head"):
        model(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))


def test_a_network_that_is_its_input() -> None:
    graph = network(lambda m: m(Identity(), m.inputs[0]), (2, 3, 3))
    check(graph, triton_model(graph))
    check(graph, torch_model(graph))


def test_a_flatten_of_one_pixel_moves_no_data() -> None:
    graph = network(
        lambda m: m(Fc(3), m(Flatten(), m(Conv(4, (3, 3), pad="valid"), m.inputs[0]))), (2, 3, 3)
    )
    assert "transpose[" not in triton_text(graph)
    check(graph, triton_model(graph))


def test_two_inputs() -> None:
    def two(make: GraphMaker) -> object:
        first, second = make.inputs
        return make(Concat(), make(Conv(3), first), second)

    graph = network(two, (2, 5, 5), (4, 5, 5))  # type: ignore[arg-type]
    check(graph, triton_model(graph))
    check(graph, torch_model(graph))
    with pytest.raises(ValueError, match="differ in batch size"):
        torch_model(graph)(torch.zeros(2, 2, 5, 5), torch.zeros(3, 4, 5, 5))


def test_awkward_names_do_not_collide_with_generated_code() -> None:
    graph = network(lenet_like, (2, 8, 8))
    renamed = {"relu": "seed", "maxpool": "n", "conv": "torch", "flatten": "x", "fc": "p"}
    text = emit_torch(rename(graph, renamed), "test.cnn")
    model = load_text(text, "awkward").Test()
    check(graph, model)
    ours = triton_model(rename(graph, renamed))
    check(graph, ours)


def rename(graph: Graph, names: dict[str, str]) -> Graph:
    from dataclasses import replace

    from convdsl.ir.graph import Value
    from convdsl.passes.rewrite import substitute

    mapping = {
        v: Value(names[v.name], TensorType(v.type.shape))
        for node in graph.nodes
        for v in node.outputs
        if v.name in names
    }
    nodes = [
        replace(substitute(n, mapping), outputs=tuple(mapping.get(v, v) for v in n.outputs))
        for n in graph.nodes
    ]
    outputs = [replace(o, value=mapping.get(o.value, o.value)) for o in graph.outputs]
    return replace(graph, nodes=tuple(nodes), outputs=tuple(outputs))


def test_torch_code_overwrites_only_what_nobody_reads_again() -> None:
    """Not an input, not what another layer or the backward pass reads, not an output."""
    text = (
        "input 4@6x6 net N = RELU - CONV(4) - RELU - SIGMOID - RELU - ADD{ ID | CONV(4) as t - RELU"
        " | @t } - RELU - BN - RELU - CONV(2)"
    )
    net = convdsl.compile_text(text)
    assert net.emit("torch").count("inplace=True") == 3
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    kept = x.detach().clone()
    net.module(device="cpu")(x).sum().backward()
    assert torch.equal(x, kept) and x.grad is not None
