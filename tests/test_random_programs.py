"""Random programs: the oracle, plain PyTorch and the interpreted kernels agree, passes on or off.

Numbers at which the answer itself hangs on the last bit (a tie in a max pooling, a kink) are told
by the oracle: where a noise of 1e-6 on every value changes a gradient, the example is dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from triton.runtime.errors import InterpreterError

import convdsl
from convdsl.compiler import Network
from convdsl.ir.graph import Graph, Output, Parameter, Role
from convdsl.ir.head import Labels
from convdsl.ir.op import LAYERS
from convdsl.pipeline import OPTIONAL
from convdsl.reference import Values, run_backward, run_forward
from convdsl.runtime.support import started
from tests.empty_cache import empty_cache
from tests.memory_driver import guarded
from tests.strategies import programs

#: of the largest element; float32 sums of a few hundred terms stay far below
TOLERANCE = 1e-4
#: a tensor whose largest element is below this is compared as if it were this large
SMALLEST = 1e-2
NOISE = 1e-6


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """Hundreds of generated files go to a folder of their own."""
    with empty_cache():
        yield


@pytest.fixture(scope="module", autouse=True)
def unaligned() -> Iterator[None]:
    """Slices start anywhere: programs of a few channels would have none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convdsl.passes.place_slices.ALIGNMENT", 1)
        yield


@dataclass(frozen=True)
class Numbers:
    """Float32 values of everything a program needs. labels: by output, none without a head.

    parameters: of every role, by path. cotangents: 0 for outputs that only training has.
    """

    inputs: list[Tensor]
    parameters: dict[str, Tensor]
    cotangents: list[Tensor]
    labels: dict[str, Tensor]


@dataclass(frozen=True)
class Answer:
    """Outputs, the loss if there is one, and a gradient (or None) for every input and parameter."""

    outputs: list[Tensor]
    loss: Tensor | None
    gradients: list[Tensor | None]


def numbers(graph: Graph, batch: int, seed: int) -> Numbers:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def tensor(parameter: Parameter) -> Tensor:
        shape, start = parameter.value.type.shape, parameter.initializer
        if parameter.role is Role.CONSTANT:
            return started(shape, start.function, start.arguments)
        if parameter.role is Role.STATE:
            return normal(*shape).abs() + 0.5  # a variance must be positive
        weights = normal(*shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        if parameter.bound is not None:
            most, units = parameter.bound
            others = [axis for axis in range(len(shape)) if axis not in units]
            norms = weights.square().sum(others, keepdim=True).sqrt()
            weights = weights * (0.9 * most / norms).clamp(max=1.0)
        return weights

    def labels(wanted: Labels) -> Tensor:
        size = (batch, *wanted.shape)
        if wanted.kind == "classes":
            return torch.randint(wanted.classes, size, generator=generator)
        if wanted.kind == "pairs":
            return torch.randint(2, size, generator=generator).float()
        least, most = (bound if bound is not None else 1.0 for bound in (wanted.least, wanted.most))
        drawn = torch.rand(size, generator=generator)
        return least + drawn * (most - least) if wanted.least is not None else normal(*size)

    return Numbers(
        [normal(batch, *v.type.shape) for v in graph.inputs],
        {parameter.path: tensor(parameter) for parameter in graph.parameters},
        [normal(batch, *o.value.type.shape) * (not o.training_only) for o in graph.outputs],
        {o.name: labels(o.head.labels(o.value.type)) for o in graph.outputs if o.head is not None},
    )


def oracle(graph: Graph, given: Numbers, noise: float = 0.0) -> Answer:
    """By torch's autograd in float64, with relative noise on every value if asked for."""
    generator = torch.Generator().manual_seed(0)
    inputs = [x.double().requires_grad_() for x in given.inputs]
    parameters = {k: p.double() for k, p in given.parameters.items()}
    learned = [parameters[p.path].requires_grad_() for p in graph.learned]
    values: Values = dict(zip(graph.inputs, inputs, strict=True))
    values |= {p.value: parameters[p.path] for p in graph.parameters}
    for node in graph.nodes:
        alone = replace(graph, inputs=node.operands, parameters=(), nodes=(node,))
        made = run_forward(alone, [values[v] for v in node.operands], {})
        for value in node.outputs:
            y = made[value]
            if noise and y.is_floating_point():
                wobble = torch.randn(y.shape, generator=generator, dtype=y.dtype)
                y = y + noise * wobble * y.detach().abs().amax() if y.numel() else y
            values[value] = y
    outputs = [values[o.value] for o in graph.results_shown]
    loss = None
    if given.labels:
        loss = torch.zeros((), dtype=torch.float64)
        for output, y in zip(graph.results_shown, outputs, strict=True):
            loss = loss + loss_of(output, y, given.labels, parameters)
        for p in graph.learned:
            l1, l2 = p.penalty
            weights = parameters[p.path]
            loss = loss + l1 * weights.abs().sum() + l2 * weights.square().sum()
    leaves = [*inputs, *learned]
    return Answer(
        [y.detach() for y in outputs],
        None if loss is None else loss.detach(),
        gradients(outputs, loss, leaves, given),
    )


def loss_of(
    output: Output, y: Tensor, labels: dict[str, Tensor], parameters: dict[str, Tensor]
) -> Tensor | float:
    """The weighted loss of one output; 0 if it has no head."""
    if output.head is None:
        return 0.0
    wanted = labels[output.name]
    scope = {"y": y, "labels": wanted.to(y.dtype) if wanted.is_floating_point() else wanted}
    scope |= {f"c{i}": parameters[p.path] for i, p in enumerate(output.constants)}
    text = output.head.loss(*scope)
    loss: Tensor = eval(text, {"F": F, "torch": torch, **scope})
    return output.head.weight * loss


def gradients(
    outputs: Sequence[Tensor], loss: Tensor | None, leaves: Sequence[Tensor], given: Numbers
) -> list[Tensor | None]:
    """Of the loss if there is one, else of the outputs weighted by the cotangents."""
    if loss is not None:
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))
    shown = given.cotangents[: len(outputs)]  # what only training has comes last
    weights = [c.to(y.dtype) for c, y in zip(shown, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, leaves, weights, allow_unused=True))


def by_passes(net: Network, given: Numbers) -> Answer:
    """By the compiler's own backward graph, after its passes, in float64."""
    graph = net.fused
    inputs = [x.double() for x in given.inputs]
    values = run_forward(graph, inputs, {k: p.double() for k, p in given.parameters.items()})
    found = run_backward(graph, values, [c.double() for c in given.cotangents])
    ends = [*graph.inputs, *(p.value for p in graph.learned)]
    return Answer(
        [values[o.value] for o in graph.results_shown], None, [found.get(value) for value in ends]
    )


def by_module(net: Network, given: Numbers, target: str) -> Answer:
    """By the generated module, in float32 and evaluation mode."""
    model: nn.Module = net.module(device="cpu", target=target).eval()
    model.load_state_dict({path: given.parameters[path] for path in model.state_dict()})
    inputs = [x.clone().requires_grad_() for x in given.inputs]
    with torch.no_grad():
        made = model(*inputs)
    outputs = [made] if isinstance(made, Tensor) else list(made)
    # by path: a shared module's parameters may stand elsewhere in the tree of modules
    leaves = [*inputs, *(model.get_parameter(p.path) for p in net.graph.learned)]
    if given.labels:
        loss = model(*inputs, given.labels)
        return Answer(outputs, loss.detach(), gradients([], loss, leaves, given))
    made = model(*inputs)
    again = [made] if isinstance(made, Tensor) else list(made)
    for inferred, trained in zip(outputs, again, strict=True):
        torch.testing.assert_close(inferred, trained.detach(), rtol=1e-5, atol=1e-5)
    return Answer(outputs, None, gradients(again, None, leaves, given))


def distance(ours: Tensor | None, theirs: Tensor | None) -> float:
    """Largest deviation, relative to the largest element."""
    if ours is None or theirs is None:
        # "not connected" and "zero" are the same answer
        rest = ours if theirs is None else theirs
        return 0.0 if rest is None else float(rest.detach().abs().amax())
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    scale = max(float(theirs.abs().amax()), SMALLEST)
    return float((ours - theirs).abs().amax()) / scale


def assert_same(ours: Answer, theirs: Answer, names: Sequence[str], tolerance: float) -> None:
    pairs = [*zip(ours.outputs, theirs.outputs, strict=True), (ours.loss, theirs.loss)]
    pairs += zip(ours.gradients, theirs.gradients, strict=True)
    labels = [*(f"output {i}" for i in range(len(ours.outputs))), "loss", *names]
    far = {
        name: d
        for name, (a, b) in zip(labels, pairs, strict=True)
        if not (d := distance(a, b)) <= tolerance
    }
    assert not far, f"deviations: {far}"


def is_stable(graph: Graph, given: Numbers) -> bool:
    """Float32 can tell the gradients: they survive a noise on every value."""
    exact, shaken = oracle(graph, given), oracle(graph, given, NOISE)
    pairs = zip(shaken.gradients, exact.gradients, strict=True)
    return all(distance(a, b) < TOLERANCE / 4 for a, b in pairs)


def check(net: Network, given: Numbers) -> None:
    """All ways to run the program give the answer of the oracle."""
    graph = net.graph
    names = [*(f"d_{v.name}" for v in graph.inputs), *(f"d_{p.path}" for p in graph.learned)]
    unlabelled = replace(given, labels={})
    assert_same(by_passes(net, unlabelled), oracle(graph, unlabelled), names, 1e-10)
    exact = oracle(graph, given)
    assert_same(by_module(net, given, "torch"), exact, names, TOLERANCE)
    with guarded():
        assert_same(by_module(net, given, "triton"), exact, names, TOLERANCE)


@pytest.mark.parametrize(
    ("text", "without"),
    [
        # an output that is the input: its gradient is the cotangent itself
        ("input 3@1x3 net Same = DROPOUT(0), SOFTMAX", ()),
        ("input 3 net Same = ID", ()),
        # an input that is an output and is read by the first layer of another
        ("input 3 net Same = ID as t output side = @t - ELU - TANH", ()),
        # a net in which no layer is left
        ("input 2@3x6 net None = POOL?(@.C > 6)", ()),
        # nodes that nobody reads, and nobody dropped
        ("input 4 net Dead = ID as t - FC(3) - RELU - CONCAT{@t | @t}", ("drop_dead",)),
        ("input 2@4x4 net Dead = ID as t - POOL - CONV(2) - ADD{@t | @t}", ("drop_dead",)),
        # parameters whose order in the graph is not that of the tree of modules
        ("module m = FC(2) input 4 net Tree = CONCAT{FC(4) - m | FC(4) - m}", ()),
        # gradients through three saturated layers, small but not lost
        (
            "input 4 net Saturated = (CONCAT{DROPOUT(p=0) | DROPOUT} - ELU(alpha=@.C))*3",
            (),
        ),
        ("input 3 net Dead = FC(3) as t - RELU - TANH - ID*2 - ADD{@t | @t}", ("drop_dead",)),
        # weights that nothing learns from
        ("input 2@4x4 net Dead = ID as t - POOL - CONV(2) - ADD{@t | @t}", ()),
        ("input 2@4x4 net Dead = ID as t - CONV(2) - ADD{@t | @t} - FLATTEN, MSE", ()),
        # running statistics that move, and nobody who reads what was normalised
        ("input 3@4x4 net Dead = CONV(2) as t - BN - RELU - ADD{@t | @t}", ()),
        ("input 3@4x4 net Dead = ID as t - BN - RELU - ADD{@t | @t}", ("drop_dead",)),
    ],
)
def test_corners_agree_with_the_oracle(text: str, without: tuple[str, ...]) -> None:
    net = replace(convdsl.compile_text(text), without=without)
    check(net, numbers(net.graph, batch=2, seed=0))


@pytest.mark.parametrize(
    ("shape", "layer"), [example for cls in LAYERS.values() for example in cls.examples]
)
def test_examples_of_the_layers_agree_with_the_oracle(shape: str, layer: str) -> None:
    net = convdsl.compile_text(f"input {shape} net Example = {layer}")
    check(net, numbers(net.graph, batch=2, seed=0))


def check_random(text: str, batch: int, seed: int, without: set[str]) -> None:
    net = replace(convdsl.compile_text(text), without=tuple(sorted(without)))
    given = numbers(net.graph, batch, seed)
    assume(is_stable(net.graph, given))
    check(net, given)


examples = given(
    text=programs(),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
    without=st.sets(st.sampled_from(sorted(OPTIONAL))),
)


@settings(max_examples=8)
@examples
def test_all_targets_agree_with_the_oracle(
    text: str, batch: int, seed: int, without: set[str]
) -> None:
    check_random(text, batch, seed, without)


@settings(max_examples=8)
@given(
    text=programs(items=4, depth=3, merges=("CONCAT",)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
    without=st.sets(st.sampled_from(sorted(OPTIONAL - {"place_slices"}))),
)
def test_all_targets_agree_with_the_oracle_on_concatenations(
    text: str, batch: int, seed: int, without: set[str]
) -> None:
    check_random(text, batch, seed, without)


@pytest.mark.slow
@settings(max_examples=150)
@examples
def test_many_programs_agree_with_the_oracle(
    text: str, batch: int, seed: int, without: set[str]
) -> None:
    check_random(text, batch, seed, without)


@pytest.mark.parametrize(
    "text",
    [
        "input 16@4x6 net N = SWISH - CONV(8, 1) - POOL",
        "input 16@5x6 net N = CONV(8) - BN - SWISH - CONV(8, 1) - POOL",
        "input 8@5x6 net N = CONV(8) - BN - RELU - DWCONV(bias=false) - BN - RELU - POOL(3, S=2)",
    ],
)
def test_kernels_stay_within_their_tensors(text: str) -> None:
    net = convdsl.compile_text(text)
    check(net, numbers(net.graph, batch=2, seed=1))


def test_a_kernel_outside_of_its_tensors_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    net = convdsl.compile_text("input 3@4x4 net N = CONV(5) - RELU")
    text = net.emit("triton").replace("rows=n * 16", "rows=n * 16 + 1")
    monkeypatch.setattr(type(net), "emit", lambda *_: text)
    with guarded(), pytest.raises(InterpreterError, match="outside of its tensors"):
        by_module(net, numbers(net.graph, batch=2, seed=1), "triton")
