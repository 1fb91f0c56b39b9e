"""Programs with several inputs and shared modules: counts, gradients, batch sizes, warnings."""

import pytest
import torch

import convdsl
from convdsl.diagnostics import CompileError
from convdsl.reference import run_forward

TARGETS = ["torch", "triton"]
SIAMESE = """
input a: 1@8x8
input b: 1@8x8
module tower = CONV(3, F=3) - RELU - POOL - FC(5)
net Siamese = DISTANCE{ @a - tower | @b - tower }
"""


def numbers(net, batch=3, seed=0):
    """Float32 inputs and parameters of a network."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(batch, *v.type.shape, generator=generator) for v in net.graph.inputs]
    parameters = {
        p.path: 0.4 * torch.randn(p.value.type.shape, generator=generator)
        for p in net.graph.parameters
    }
    return inputs, parameters


def oracle(net, inputs, parameters, dy):
    """(output, gradients of inputs and parameters) by autograd in float64."""
    inputs = [x.double().requires_grad_() for x in inputs]
    parameters = {k: p.double().requires_grad_() for k, p in parameters.items()}
    y = run_forward(net.graph, inputs, parameters)[net.graph.outputs[0].value]
    leaves = [*inputs, *parameters.values()]
    return y.detach(), torch.autograd.grad(y, leaves, dy.double(), allow_unused=True)


def check(net, target, batch=3):
    """The generated module gives the output and the gradients of the oracle."""
    inputs, parameters = numbers(net, batch)
    dy = torch.randn(
        batch, *net.graph.outputs[0].value.type.shape, generator=torch.Generator().manual_seed(1)
    )
    expected, theirs = oracle(net, inputs, parameters, dy)
    model = net.module(device="cpu", target=target)
    model.load_state_dict(parameters)
    leaves = [x.requires_grad_() for x in inputs]
    y = model(*leaves)
    y.backward(dy)
    torch.testing.assert_close(y.detach().double(), expected, rtol=1e-4, atol=1e-5)
    ours = [x.grad for x in leaves] + [model.get_parameter(path).grad for path in parameters]
    for mine, other in zip(ours, theirs, strict=True):
        if other is None:  # nothing flows there
            assert mine is None or not mine.any()
        else:
            torch.testing.assert_close(mine.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_siamese_network_shares_its_tower(target):
    net = convdsl.compile_text(SIAMESE)
    assert [p.path for p in net.graph.parameters] == [
        "tower.conv.weight",
        "tower.conv.bias",
        "tower.fc.weight",
        "tower.fc.bias",
    ]
    assert list(net.module(device="cpu", target=target).state_dict()) == [
        p.path for p in net.graph.parameters
    ]
    check(net, target)


def test_shared_weights_are_counted_once():
    """(3*3*1 + 1)*3 + (3*4*4 + 1)*5 = 275, of however many towers."""
    counts = [
        sum(p.value.type.elements for p in convdsl.compile_text(text).graph.parameters)
        for text in (SIAMESE, SIAMESE.replace("module", "block"))
    ]
    assert counts == [275, 550]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "text",
    [
        # one input twice, once through the module and once past it
        "module m = CONV(2) input a: 2@5x4 input b: 2@5x4 "
        "net Two = ADD{ @a - m | @b - m | @a } - RELU",
        # one input on both sides: the distance of a vector to itself through other weights
        "input a: 6 input b: 6 net Same = DISTANCE(p=1){ @a - FC(3) | @a - FC(3) }"
        " - ADD{ ID | @b - FC(1) }",
        # a module on the output of itself, on both inputs
        "module m = FC(4) - TANH input a: 4 input b: 4 net Deep = MUL{ @a - m*2 | @b - m }",
        # inputs of different shape
        "input picture: 3@6x6 input facts: 5 "
        "net Mixed = MUL{ @picture - CONV(4) | @facts - FC(4) - SIGMOID } - GAP - FC(2)",
        # an input that nothing reads
        "input a: 4 input b: 4 net Lonely = @b - FC(2)",
        # an input that is an output of the network untouched
        "input a: 4 input b: 4 net Direct = @b - ID",
    ],
)
def test_inputs_may_be_used_twice_or_never(text, target):
    check(convdsl.compile_text(text), target)


@pytest.mark.parametrize("target", TARGETS)
def test_an_unused_input_is_warned_of_and_still_expected(target):
    net = convdsl.compile_text("input a: 4 input b: 4 net Lonely = @b - FC(2)")
    assert [w.message for w in net.warnings] == ["input `a` is never used"]
    model = net.module(device="cpu", target=target)
    with pytest.raises(TypeError, match=r"call the network with \(a, b\)"):
        model(torch.zeros(2, 4), *[torch.zeros(2, 4)] * 2, torch.zeros(2))


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_differ_in_batch_size_are_refused(target):
    model = convdsl.compile_text(SIAMESE).module(device="cpu", target=target)
    with pytest.raises(ValueError, match=r"inputs differ in batch size: \[2, 3\]"):
        model(torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"b must have shape \(N, 1, 8, 8\), got \(2, 1, 8, 7\)"):
        model(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 7))
    assert model(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8)).shape == (0, 1)


def test_equal_pictures_are_at_no_distance():
    net = convdsl.compile_text(SIAMESE)
    model = net.module(device="cpu", target="torch")
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    # torch's eps of 1e-6 on each of five differences
    assert model(x, x).detach().flatten().tolist() == pytest.approx([5**0.5 * 1e-6] * 4, rel=1e-3)
    order = model(x, x.flip(0)).flatten(), model(x.flip(0), x).flatten()
    torch.testing.assert_close(*order, rtol=1e-4, atol=1e-5)


def codes(text):
    with pytest.raises(CompileError) as raised:
        convdsl.compile_text(text)
    return [d.code for d in raised.value.diagnostics if d.is_error]


def test_a_module_on_two_shapes_of_input_is_refused():
    assert codes(SIAMESE.replace("input b: 1@8x8", "input b: 1@8x6")) == ["E223"]


def test_one_shape_cannot_stand_for_several_inputs():
    with pytest.raises(CompileError) as raised:
        convdsl.compile_text(SIAMESE, input="1@9x9")
    assert [d.code for d in raised.value.diagnostics] == ["E221"]
