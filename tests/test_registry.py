"""Every registered layer: documented, with examples whose rules all agree with torch.

Runs over the registry, so a new layer is covered the moment its file exists.
"""

import pytest
import torch
from torch import Tensor

from convdsl.codegen.launches import orders_of_gradients
from convdsl.compiler import Network, compile_text
from convdsl.ir.builder import Builder
from convdsl.ir.graph import Graph, Parameter, Role
from convdsl.ir.op import HEADS, LAYERS
from convdsl.passes.differentiate import differentiate
from convdsl.reference import run_backward, run_forward
from convdsl.runtime.support import started
from tests.op_driver import error, kernels, reference

EXAMPLES = [
    pytest.param(shape, text, name, id=f"{shape} {text}")
    for name, layer in LAYERS.items()
    for shape, text in layer.examples
]


def network(shape: str, text: str) -> Network:
    return compile_text(f"input {shape}\nnet Example = {text}\n")


def data(graph: Graph, n: int = 2) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Random float64 inputs and parameters of a graph, positive statistics, its constants."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = [random(n, *value.type.shape) for value in graph.inputs]

    def tensor(parameter: Parameter) -> Tensor:
        shape, start = parameter.value.type.shape, parameter.initializer
        if parameter.role is Role.CONSTANT:
            return started(shape, start.function, start.arguments).double()
        return random(*shape) if parameter.role is Role.LEARNED else random(*shape).abs() + 0.5

    return inputs, {p.path: tensor(p) for p in graph.parameters}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_examples_of_itself(name):
    assert LAYERS[name].examples
    for shape, text in LAYERS[name].examples:
        graph = network(shape, text).graph
        # a layer that is made of others is in the graph by its parts
        composite = any(node.origin.text.startswith(name) for node in graph.nodes)
        assert composite or name in {getattr(n.op, "name", None) for n in graph.nodes}, text


@pytest.mark.parametrize("name", [*LAYERS, *(f", {head}" for head in HEADS)])
def test_every_argument_is_documented(name):
    entry = HEADS[name[2:]] if name.startswith(", ") else LAYERS[name]
    assert entry.__doc__ and entry.__doc__.strip()
    specs = entry.arguments()
    for spec in specs:
        assert spec.doc.strip(), spec.name
        assert spec.letter is None or (len(spec.letter) == 1 and spec.letter.isupper())
    letters = [spec.letter for spec in specs if spec.letter]
    assert len(letters) == len(set(letters))


def test_other_names_of_a_layer_are_plain_and_its_own():
    names = [alias for layer in LAYERS.values() for alias in layer.aliases]
    assert len(set(names)) == len(names)
    assert not set(names) & {name.replace("_", "") for name in LAYERS}
    assert [name for name in names if "_" in name or "2D" in name or name != name.upper()] == []


@pytest.mark.parametrize("shape, text, name", EXAMPLES)
def test_shape_rule_is_what_the_reference_makes(shape, text, name):
    graph = network(shape, text).graph
    inputs, parameters = data(graph)
    values = run_forward(graph, inputs, parameters)
    for node in graph.nodes:
        for value in node.outputs:
            batch = (2,) if value.type.batched else ()
            assert tuple(values[value].shape) == (*batch, *value.type.shape), node.op.title


@pytest.mark.parametrize("shape, text, name", EXAMPLES)
def test_gradient_is_autograds_in_float64(shape, text, name):
    graph = differentiate(network(shape, text).graph)
    inputs, parameters = data(graph)
    leaves = [x.requires_grad_() for x in (*inputs, *(parameters[p.path] for p in graph.learned))]
    values = run_forward(graph, inputs, parameters)
    output = values[graph.outputs[0].value]
    dy = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(output, leaves, dy)
    detached = {value: tensor.detach() for value, tensor in values.items()}
    unseen = [torch.zeros_like(detached[o.value]) for o in graph.outputs[1:]]
    gradients = run_backward(graph, detached, [dy, *unseen])
    ends = (*graph.inputs, *(p.value for p in graph.learned))
    assert set(gradients) == set(ends)
    for value, theirs in zip(ends, expected, strict=True):
        assert error(gradients[value], theirs) < 1e-10, value.name


@pytest.mark.parametrize("shape, text, name", EXAMPLES)
def test_kernels_agree_with_the_references(shape, text, name):
    """Every node, forward and backward, on the operands the oracle gives it."""
    graph = differentiate(network(shape, text).graph)
    inputs, parameters = data(graph)
    table = run_forward(graph, inputs, parameters)
    orders = {p.value: p.permute for p in graph.parameters}
    made = orders_of_gradients(graph)
    generator = torch.Generator().manual_seed(1)
    for cotangent in graph.cotangents:
        table[cotangent] = torch.randn(
            (2, *cotangent.type.shape), dtype=torch.float64, generator=generator
        )
    for node in graph.all_nodes:
        operands = [table[value] for value in node.operands]
        expected = reference(node.op, *operands)
        table |= dict(zip(node.outputs, expected, strict=True))
        short = [t.float() if t.is_floating_point() else t for t in operands]
        count = len(node.inputs)
        # a seed below 0: evaluation, as the reference
        ours = kernels(
            node.op,
            *short[:count],
            parameters=short[count:],
            seed=-1,
            orders=[orders[v] for v in node.parameters],
            made=[made.get(v) for v in node.outputs],
        )
        for value, mine, theirs in zip(node.outputs, ours, expected, strict=True):
            assert error(mine, theirs) < 1e-5, f"{node.op.title}: {value.name}"


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_reaches_every_operand(name):
    for shape, text in LAYERS[name].examples:
        graph = network(shape, text).graph
        for node in graph.nodes:
            build = Builder({v.name for v in (*node.operands, *node.outputs)})
            dy = build.value("dy", node.output.type)
            gradients = node.op.gradient(node, dy, build)
            learned = {p.value for p in graph.learned}
            assert set(gradients) == {*node.inputs, *(v for v in node.parameters if v in learned)}
            for operand, gradient in gradients.items():
                assert gradient.type.shape == operand.type.shape
                assert gradient.type.batched == operand.type.batched


def test_macs_and_windows_are_defined_for_every_example():
    for layer in LAYERS.values():
        for shape, text in layer.examples:
            for node in network(shape, text).graph.nodes:
                types = [value.type for value in node.inputs]
                assert node.op.macs(*types) >= 0
                window = node.op.window(*types)
                if window is not None and not window.everything:
                    axes = len(types[0].spatial)
                    assert len(window.kernel) == len(window.stride) == len(window.padding) == axes
