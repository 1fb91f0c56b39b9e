"""Passes: each against the float64 reference, with the graph verified after every one."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

import convdsl
from convdsl.compiler import compile_text
from convdsl.ir.graph import Graph, Node, Value
from convdsl.ir.group import Group
from convdsl.ir.printer import print_graph
from convdsl.ir.verify import GraphError, verify
from convdsl.ops.add import Add
from convdsl.ops.conv import Conv
from convdsl.ops.dropout import Dropout
from convdsl.ops.identity import Identity
from convdsl.ops.maxpool import MaxPool
from convdsl.ops.relu import Relu
from convdsl.ops.swish import Swish
from convdsl.ops.tanh import Tanh
from convdsl.passes.differentiate import differentiate
from convdsl.passes.drop_dead import drop_dead
from convdsl.passes.plan_memory import plan
from convdsl.passes.pool_first import pool_first
from convdsl.pipeline import INFERENCE_PIPELINE, OPTIONAL, PIPELINE, run_passes
from convdsl.reference import run_backward, run_forward
from tests.graphs import (
    NETWORKS,
    GraphMaker,
    lenet_like,
    network,
    random_inputs,
    random_parameters,
    residual,
)


@pytest.fixture(params=NETWORKS)
def graph(request: pytest.FixtureRequest) -> Graph:
    build, shape = NETWORKS[request.param]
    made = network(build, shape)
    verify(made, "make")
    return made


def truth(graph: Graph) -> tuple[list[Tensor], dict[str, Tensor], Tensor, dict[Value, Tensor]]:
    """Inputs, parameters, cotangent and torch autograd's gradients in float64."""
    inputs = [x.requires_grad_() for x in random_inputs(graph, 3)]
    parameters = {k: p.requires_grad_() for k, p in random_parameters(graph).items()}
    values = run_forward(graph, inputs, parameters)
    output = values[graph.outputs[0].value]
    cotangent = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    output.backward(cotangent)
    expected = dict(zip(graph.inputs, (x.grad for x in inputs), strict=True))
    expected |= {p.value: parameters[p.path].grad for p in graph.parameters}
    return inputs, parameters, cotangent, expected


def check(graph: Graph, source: Graph) -> None:
    """The graph's backward part gives torch autograd's gradients of the source graph."""
    inputs, parameters, cotangent, expected = truth(source)
    with torch.no_grad():
        values = run_forward(graph, inputs, parameters)
        found = run_backward(graph, values, [cotangent])
    assert set(found) == set(expected)
    for value, gradient in expected.items():
        torch.testing.assert_close(found[value], gradient, rtol=1e-10, atol=1e-12)


def test_differentiate_agrees_with_autograd(graph: Graph) -> None:
    made = differentiate(graph)
    verify(made, "differentiate")
    assert made.nodes == graph.nodes
    check(made, graph)


#: the others are not for the training graph, or for BN only (`tests.test_merge_siblings`)
CHOICES = [name for name, _ in PIPELINE if name in OPTIONAL - {"merge_siblings"}]


def graphs_of_subsets(graph: Graph) -> list[tuple[tuple[str, ...], Graph]]:
    """Every graph that comes out, whichever passes are left out; once each, and who was missing."""
    found: list[tuple[tuple[str, ...], Graph]] = [((), graph)]
    for name, run in PIPELINE:
        after = [(without, run(made)) for without, made in found]
        for _, made in after:
            verify(made, name)
        if name in CHOICES:
            after += [((*without, name), made) for without, made in found]
        found = list({repr(made): (without, made) for without, made in reversed(after)}.values())
    return found


def check_subsets(graph: Graph) -> set[str]:
    """Most of the subsets make the same graph at some pass, and go on as one. Who made a change."""
    found = graphs_of_subsets(graph)
    for without, made in found:
        try:
            assert repr(run_passes(graph, PIPELINE, without)) == repr(made)
            check(made, graph)
        except AssertionError as error:
            error.add_note(f"without {without}")
            raise
    return {name for without, _ in found for name in without}


def test_any_subset_of_passes_gives_the_same_gradients(graph: Graph) -> None:
    assert "fuse_epilogues" in check_subsets(graph)


@pytest.mark.parametrize(
    ("text", "changing"),
    [
        (
            "CONV(8) - RELU - ADD{CONV(8) - RELU - CONV(8) | ID} - RELU - CONV(16, 1) - LEAKY_RELU",
            {"drop_identity", "pack_masks", "fuse_epilogues", "fuse_prologues"},
        ),
        (
            "CONCAT{CONV(8) - RELU | CONV(16) - RELU | POOL(3, S=1, P=1)} - CONV(8) - RELU - POOL",
            {"hoist_pool_gradient", "pack_masks", "place_slices", "fuse_epilogues"},
        ),
    ],
)
def test_any_subset_of_passes_where_channels_fill_bytes(text: str, changing: set[str]) -> None:
    assert changing <= check_subsets(compile_text(f"input 8@6x5 net Wide = {text}").graph)


def test_the_inference_pipeline_gives_the_same_output(graph: Graph) -> None:
    inputs, parameters = random_inputs(graph, 2), random_parameters(graph)
    made = run_passes(graph, INFERENCE_PIPELINE)
    expected = run_forward(graph, inputs, parameters)[graph.outputs[0].value]
    found = run_forward(made, inputs, parameters)[made.outputs[0].value]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_leaving_out_a_needed_pass_is_refused(graph: Graph) -> None:
    with pytest.raises(ValueError, match="differentiate"):
        run_passes(graph, PIPELINE, ["differentiate"])


def titles(nodes: tuple[Node, ...]) -> list[str]:
    return [node.op.title for node in nodes]


def test_conv_relu_pool_is_one_kernel_that_stores_only_the_pooled_map() -> None:
    graph = network(lambda m: m(MaxPool(), m(Relu(), m(Conv(4), m.inputs[0]))), (1, 8, 8))
    fused = run_passes(graph, PIPELINE)
    (group,) = fused.nodes
    assert isinstance(group.op, Group)
    assert titles(group.op.nodes) == ["conv", "relu", "maxpool"]
    assert [v.type.shape for v in group.outputs] == [(4, 4, 4), (4, 4, 4)]


def test_a_value_the_backward_part_needs_is_stored_on_the_way() -> None:
    graph = network(lambda m: m(MaxPool(), m(Swish(), m(Conv(4), m.inputs[0]))), (1, 8, 8))
    (group,) = run_passes(graph, PIPELINE).nodes
    assert [v.name for v in group.outputs] == ["conv", "maxpool", "maxpool_extra"]


def test_a_cropping_pool_is_not_fused_when_the_whole_map_must_be_stored() -> None:
    graph = network(lambda m: m(MaxPool(), m(Swish(), m(Conv(4), m.inputs[0]))), (1, 7, 8))
    assert len(run_passes(graph, PIPELINE).nodes) == 2
    graph = network(lambda m: m(MaxPool(), m(Relu(), m(Conv(4), m.inputs[0]))), (1, 7, 8))
    assert len(run_passes(graph, PIPELINE).nodes) == 1


def test_overlapping_pooling_stays_a_kernel_of_its_own() -> None:
    graph = network(lambda m: m(MaxPool((3, 3), (2, 2)), m(Conv(4), m.inputs[0])), (1, 9, 9))
    assert len(run_passes(graph, PIPELINE).nodes) == 2


def test_the_shortcut_is_added_in_the_epilogue() -> None:
    fused = run_passes(network(residual, (4, 5, 6)), PIPELINE)
    assert "conv_add_relu" in titles(fused.nodes)


def test_drop_dead_removes_what_nobody_reads() -> None:
    def unused_branch(make: GraphMaker) -> Value:
        make(Relu(), make.inputs[0])
        return make(Tanh(), make.inputs[0])

    assert titles(drop_dead(network(unused_branch, (3,))).nodes) == ["tanh"]


def test_drop_identity_keeps_dropout_only_in_training() -> None:
    graph = network(lambda m: m(Dropout(0.5), m(Identity(), m.inputs[0])), (3,))
    assert titles(run_passes(graph, PIPELINE, ["fuse_epilogues"]).nodes) == ["dropout"]
    assert titles(run_passes(graph, INFERENCE_PIPELINE).nodes) == []


def test_verify_finds_a_use_before_the_definition() -> None:
    graph = network(lambda m: m(Relu(), m(Tanh(), m.inputs[0])), (3,))
    broken = graph.with_nodes(graph.nodes[::-1], ())
    with pytest.raises(GraphError, match="reads tanh before its definition"):
        verify(broken, "test")


def test_printing_is_deterministic_and_shows_groups(graph: Graph) -> None:
    fused = run_passes(graph, PIPELINE)
    text = print_graph(fused)
    assert text == print_graph(run_passes(graph, PIPELINE))
    assert "  | %" in text


# ---- memory


def overlaps(first: int, last: int, other_first: int, other_last: int) -> bool:
    return first <= other_last and other_first <= last


def test_no_two_live_tensors_share_memory(graph: Graph) -> None:
    made = plan(run_passes(graph, PIPELINE), batch=5)
    for a, b in combinations(made.slots, 2):
        if overlaps(a.first, a.last, b.first, b.last):
            assert not overlaps(a.offset, a.offset + a.size - 1, b.offset, b.offset + b.size - 1)
    assert made.live_peak <= made.arena


def test_the_plan_grows_with_the_batch_and_shrinks_with_the_dtype() -> None:
    fused = run_passes(network(lenet_like, (2, 8, 8)), PIPELINE)
    assert plan(fused, 64).arena < plan(fused, 128).arena
    assert plan(fused, 128, compute_bytes=2).arena < plan(fused, 128).arena
    assert plan(fused, 64).parameters == 4 * sum(p.value.type.elements for p in fused.parameters)


def test_fusing_saves_memory() -> None:
    def big(make: GraphMaker) -> Value:
        return make(MaxPool(), make(Relu(), make(Conv(8), make.inputs[0])))

    graph = network(big, (1, 32, 32))
    whole = plan(run_passes(graph, PIPELINE), 64).arena
    unfused = plan(run_passes(graph, PIPELINE, ["fuse_epilogues", "fuse_prologues"]), 64).arena
    assert whole < unfused


def pooled_after(make: GraphMaker, **pool: int) -> Value:
    return make(MaxPool(**pool), make(Relu(), make(Conv(4), make.inputs[0])))


def test_pool_first_puts_the_activation_behind_its_pooling() -> None:
    graph = network(pooled_after, (2, 6, 8))
    moved = pool_first(graph)
    verify(moved, "pool_first")
    assert [type(n.op) for n in graph.nodes] == [Conv, Relu, MaxPool]
    assert [type(n.op) for n in moved.nodes] == [Conv, MaxPool, Relu]
    assert moved.results() == graph.results()
    (x,) = random_inputs(graph, 3)
    x[0, :, 0, 0] = float("nan")
    x[1] = 0.0  # ties
    parameters = random_parameters(graph)
    found = []
    for each in (graph, moved):
        leaves = {k: p.clone().requires_grad_() for k, p in parameters.items()}
        start = x.clone().requires_grad_()
        y = run_forward(each, [start], leaves)[each.outputs[0].value]
        y.square().sum().backward()
        found.append([y, start.grad, *(p.grad for p in leaves.values())])
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("pool", [{"kernel": 3, "stride": 2}, {"kernel": 2, "pad": 1}])
def test_pool_first_leaves_poolings_whose_windows_overlap_or_leave_the_map(
    pool: dict[str, int],
) -> None:
    graph = network(lambda make: pooled_after(make, **pool), (2, 7, 7))
    assert pool_first(graph) == graph


def test_pool_first_leaves_activations_that_others_read_too() -> None:
    def build(make: GraphMaker) -> Value:
        x = make(Relu(), make.inputs[0])
        return make(MaxPool(), make(Add(), x, make(MaxPool(stride=1, kernel=1), x)))

    graph = network(build, (2, 4, 4))
    assert pool_first(graph) == graph
    only = GraphMaker((2, 4, 4))
    x = only(Relu(), only.inputs[0])
    shown = only.graph(x, only(MaxPool(), x))
    assert pool_first(shown) == shown


def test_a_map_that_a_pooling_crops_is_stored_whole_for_others() -> None:
    """At inference, where the winners' places are not stored."""
    net = convdsl.compile_text(
        "input 5@9x8 net N = CONV(8) as a - POOL as b - CONV(8)"
        "\noutput side = @a - POOL(3, S=2, P=1)"
    )
    torch.manual_seed(0)
    ours, theirs = (net.module(device="cpu", target=t).eval() for t in ("triton", "torch"))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 9, 8)
    with torch.no_grad():
        for one, other in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
