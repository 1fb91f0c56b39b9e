"""A training step in a handful of launches: the same numbers as by one launch a layer.

Loss and gradients against the launches layer by layer and against torch in float64; stretches of
samples, random numbers, heads, precision; how many launches there are; and who does it otherwise.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

import convdsl
from convdsl.compiler import Network, compile_text
from convdsl.passes.step_at_once import MOST_WEIGHTS
from convdsl.runtime.labels import FEW
from convdsl.runtime.tensor_table import Table
from tests.empty_cache import empty_cache
from tests.memory_driver import watched
from tests.test_train_step import target

TOLERANCE = 2e-5  # of the largest element of a gradient, in float32


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    """Generated files go to a folder of their own."""
    with empty_cache():
        yield


PROGRAMS = {
    "as LeNet": "input 12x12x1\nnet N = [CONV(k, F=3, P=0) - RELU - POOL]*(k in 4, 6)"
    " - FC(9) - TANH - FC(5), SOFTMAX",
    "FC alone": "input 7\nnet N = FC(5), MSE",
    "without biases": "input 3@6x6\ndefault CONV(bias=false)\nnet N = CONV(4) - RELU - CONV(5, S=2)"
    " - GAP - FC(3, bias=false), SVM",
    "with branches": "input 3@8x8\nnet N = CONCAT{ CONV(4) - RELU"
    " | POOL(3, S=1, P=1) - CONV(2, F=1) | ID } - ADD{ CONV(6) - SIGMOID | CONV(6, F=1) }"
    " - AVGPOOL - FC(4), SOFTMAX",
    "depthwise, transposed, local": "input 2@3x3\nnet N = DWCONV(multiplier=2) - RELU"
    " - LOCAL(2, F=2, P=0) - PRELU - UPCONV(3) - GMP - FC(3), SOFTMAX",
    "a map of labels": "input 2@5x6\nnet N = CONV(4) - RELU - CONV(3, F=1)"
    ", SOFTMAX(ignore_index=1)",
    "class weights": "input 6\nnet N = FC(8) - RELU"
    " - FC(3), SOFTMAX(label_smoothing=0.1, class_weights=(1, 2, 3), weight=0.5)",
    "yes or no, regularized": "input 2@5x5\nnet N = CONV(3, l2=0.1) - RELU - FC(2), SIGMOID",
    "shared weights": "input a: 6\ninput b: 6\nmodule tower = FC(5) - TANH - FC(4)\n"
    "net N = DISTANCE{ @a - tower | @b - tower }, CONTRASTIVE(margin=1.0)",
    "a sequence": "input 3@11\nnet N = CONV1D(4, F=3) - RELU - CONV1D(3, F=3, P=0) - FC(3)"
    ", SOFTMAX",
}
OTHERWISE = {
    "batch normalisation": "input 3@6x6\nnet N = CONV(4) - BN - RELU - FC(3), SOFTMAX",
    "no head": "input 6\nnet N = FC(3)",
    "an auxiliary loss": "input 6\nnet N = FC(5) as early - FC(3), SOFTMAX\n"
    "output aux = @early - FC(3), SOFTMAX(weight=0.3, only=training)",
    "nothing to learn": "input 6\nnet N = RELU, MSE",
    "too many weights": f"input {MOST_WEIGHTS // 64}\nnet N = FC(64) - FC(3), SOFTMAX",
    "too much work": "input 3@64x64\nnet N = CONV(30) - RELU - GAP - FC(3), SOFTMAX",
    "too much that is kept": "input 8@99x99\nnet N = RELU - TANH - CONV(1, F=1), SIGMOID",
}


def by_layers(network: Network) -> Network:
    return replace(network, without=("step_at_once",))


def with_programs(network: Network, programs: int) -> Network:
    """Of a device that is so small."""
    other = replace(network)
    plan = network.at_once
    assert plan is not None
    other.__dict__["at_once"] = replace(plan, programs=programs)
    return other


def batch_of(network: Network, samples: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(samples)
    inputs = [
        torch.randn(samples, *v.type.shape, generator=generator) for v in network.graph.inputs
    ]
    return inputs, target(network.graph.outputs[0], samples, generator)


def step(
    network: Network, samples: int, target: str = "triton", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of three times the loss; ``torch`` computes in float64."""
    torch.manual_seed(0)
    model: Any = network.module(device="cpu", target=target, dtype=dtype)
    for parameter in model.parameters():  # zero biases hide mistakes
        # not randn_like, whose numbers follow the order in memory
        parameter.data += 0.05 * torch.randn(parameter.shape)
    inputs, labels = batch_of(network, samples)
    if target == "torch":
        model = model.double()
        inputs = [x.double() for x in inputs]
    torch.manual_seed(1)
    loss = model(*inputs, labels)
    (3 * loss).backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def alike(
    ours: tuple[Tensor, dict[str, Tensor]],
    theirs: tuple[Tensor, dict[str, Tensor]],
    tolerance: float = TOLERANCE,
) -> None:
    torch.testing.assert_close(
        ours[0].double(), theirs[0].double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        size = max(float(gradient.abs().max()), 1e-3)
        far = float((ours[1][name].double() - gradient.double()).abs().max())
        assert far <= tolerance * size, f"{name}: {far} of {size}"


def kernels_of(run: Any) -> list[str]:
    with watched() as seen:
        run()
    return [launch.kernel for launch in seen]


@pytest.mark.parametrize("name", PROGRAMS)
def test_loss_and_gradients_are_those_of_torch_and_of_the_layers(name: str) -> None:
    network = compile_text(PROGRAMS[name])
    plan = network.at_once
    assert plan is not None and "samples_pass" in network.triton.text
    plain = by_layers(network)
    assert plain.at_once is None and "samples_pass" not in plain.triton.text
    for samples in (5, 1):
        ours = step(network, samples)
        alike(ours, step(network, samples, "torch"))
        alike(ours, step(plain, samples))


@pytest.mark.parametrize("samples", [1, 2, 6, 7, 10])
def test_programs_share_the_samples(samples: int) -> None:
    """Three programs, of which the last may have fewer samples, or none is needed."""
    network = compile_text(PROGRAMS["as LeNet"])
    few = with_programs(network, 3)
    assert "each = max(1, triton.cdiv(n, 3))" in few.triton.text
    ours = step(few, samples)
    alike(ours, step(by_layers(network), samples))
    alike(ours, step(network, samples, "torch"))


def test_a_program_adds_up_many_rows_of_a_loss() -> None:
    """More rows than `cross_entropy` takes at a time: the loss of one program has several parts."""
    text = "input 2@20x20\nnet N = CONV(3, F=1), SOFTMAX"
    network = with_programs(compile_text(text), 2)
    ours = step(network, 5)
    alike(ours, step(network, 5, "torch"))


@pytest.mark.parametrize("name", ["as LeNet", "without biases", "a map of labels"])
def test_an_empty_batch_teaches_nothing(name: str) -> None:
    network = compile_text(PROGRAMS[name])
    loss, gradients = step(network, 0)
    assert loss.isnan()
    assert all(not gradient.any() for gradient in gradients.values())
    alike((loss, gradients), step(by_layers(network), 0))


def test_labels_that_are_all_ignored_teach_nothing() -> None:
    model: Any = compile_text(PROGRAMS["a map of labels"]).module(device="cpu", target="triton")
    loss = model(torch.randn(3, 2, 5, 6), torch.ones(3, 5, 6, dtype=torch.int64))
    loss.backward()
    assert loss.isnan() and all(not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("programs", [1, 2, 5])
def test_the_same_elements_are_dropped_whoever_has_the_sample(programs: int) -> None:
    text = "CONV(4) - RELU - DROPOUT(0.5) - POOL - FC(8) - DROPOUT - FC(3), SOFTMAX"
    network = compile_text(f"input 6x6x2\nnet N = {text}")
    samples = 5
    alike(step(with_programs(network, programs), samples), step(by_layers(network), samples))


@pytest.mark.parametrize("name", ["as LeNet", "with branches"])
def test_two_runs_are_the_same_to_the_bit(name: str) -> None:
    network = compile_text(PROGRAMS[name])
    (loss, gradients), (again, same) = step(network, 5), step(network, 5)
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[key], same[key]) for key in gradients)


def test_in_half_precision() -> None:
    network = compile_text(PROGRAMS["as LeNet"])
    alike(step(network, 5, dtype=torch.float16), step(network, 5, "torch"), 1e-2)


def test_a_gradient_that_half_precision_has_no_number_for() -> None:
    """The mean over many pixels would be below the smallest number; it is taken at the end."""
    text = "input 1@40x40\nnet N = CONV(2, F=1), SOFTMAX"
    network = compile_text(text)
    alike(step(network, 4, dtype=torch.float16), step(network, 4, "torch"), 1e-2)


@pytest.mark.parametrize("name", ["lenet5", "digits"])
def test_the_networks_are_the_same_as_by_layers(name: str) -> None:
    network = convdsl.compile(f"networks/{name}.cnn")
    ours = step(network, 2)
    alike(ours, step(by_layers(network), 2))
    alike(ours, step(network, 2, "torch"))


@pytest.mark.parametrize("name", OTHERWISE)
def test_who_does_it_layer_by_layer(name: str) -> None:
    network = compile_text(OTHERWISE[name])
    assert network.at_once is None and "samples_pass" not in network.triton.text


def test_when_it_is_done_layer_by_layer() -> None:
    """Gradients of inputs, no gradients at all, evaluation, outputs alone."""
    model: Any = compile_text(PROGRAMS["as LeNet"]).module(device="cpu", target="triton")
    (x,), y = batch_of(compile_text(PROGRAMS["as LeNet"]), 2)
    assert "samples_pass" in kernels_of(lambda: model(x, y))
    asking = x.clone().requires_grad_()
    assert "samples_pass" not in kernels_of(lambda: model(asking, y).backward())
    assert asking.grad is not None
    with torch.no_grad():
        assert "samples_pass" not in kernels_of(lambda: model(x, y))
    assert "samples_pass" not in kernels_of(lambda: model(x))
    model.eval()
    assert "samples_pass" not in kernels_of(lambda: model(x, y))


def test_gradients_add_up_and_the_graph_may_be_kept() -> None:
    network = compile_text(PROGRAMS["FC alone"])
    model: Any = network.module(device="cpu", target="triton")
    (x,), y = batch_of(network, 4)
    loss = model(x, y)
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters()}
    loss.backward()
    assert all(torch.equal(p.grad, 2 * once[name]) for name, p in model.named_parameters())
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(model(x, y), list(model.parameters()), create_graph=True)


def test_labels_are_checked_first() -> None:
    model: Any = compile_text(PROGRAMS["as LeNet"]).module(device="cpu", target="triton")
    (x,), y = batch_of(compile_text(PROGRAMS["as LeNet"]), 2)
    with pytest.raises(ValueError, match=r"label 5 is outside 0\.\.4"):
        model(x, torch.full_like(y, 5))
    many = torch.zeros(FEW + 1, dtype=torch.int64)  # which torch looks at, not the host
    for wrong in (-1, 5):
        many[7] = wrong
        with pytest.raises(ValueError, match=rf"label {wrong} is outside 0\.\.4"):
            model(x[:1].expand(len(many), -1, -1, -1), many)


class Operations(TorchDispatchMode):
    """What torch does to elements of tensors; what only allocates or views starts no kernel."""

    FREE = ("empty", "detach", "_record_function_enter_new", "_record_function_exit")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.aside = False

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if not (self.aside or function.is_view or name.removeprefix("new_") in self.FREE):
            self.seen.append(name)
        return function(*arguments, **(named or {}))

    def leaving_out(self, call: Any) -> Any:
        """``call``, with nothing counted inside it."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            self.aside = True
            try:
                return call(*arguments, **named)
            finally:
                self.aside = False

        return wrapped


@contextmanager
def all_launches() -> Iterator[list[str]]:
    """Names of the kernels and of torch's operations in the block.

    Not what the interpreter does for a kernel, nor how addresses of gradients that moved come to
    the optimiser's table: in a CUDA graph they do not move.
    """
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch, watched() as kernels, Operations() as operations:
        executor = interpreter.GridExecutor
        patch.setattr(executor, "__call__", operations.leaving_out(executor.__call__))
        patch.setattr(Table, "upload", operations.leaving_out(Table.upload))
        yield seen
    seen += [launch.kernel for launch in kernels] + operations.seen


@pytest.mark.parametrize(
    "name, optimizer, dtype",
    [
        ("lenet5", "SGD", torch.float32),
        ("as LeNet", "Adam", torch.float16),
        ("as LeNet", "AdamW", torch.float32),
    ],
)
def test_a_step_of_lenet_is_six_launches_at_most(
    name: str, optimizer: str, dtype: torch.dtype
) -> None:
    small = name in PROGRAMS
    network = compile_text(PROGRAMS[name]) if small else convdsl.compile(f"networks/{name}.cnn")
    model: Any = network.module(device="cpu", target="triton", dtype=dtype)
    options = {"lr": 0.01, "momentum": 0.9} if optimizer == "SGD" else {}
    step = model.training_step(getattr(convdsl, optimizer)(model.parameters(), **options))
    (x,), y = batch_of(network, 1)
    x = x.to(dtype)
    step(x, y)  # makes the optimiser's state
    with all_launches() as seen:
        step(x, y)
    steps = {"SGD": ["sgd"], "Adam": ["adam", "_foreach_add_"], "AdamW": ["adam", "_foreach_add_"]}
    passes = ["samples_pass", "weights_pass", "scaling_pass"]
    assert Counter(seen) == Counter([*passes, *steps[optimizer]])
    assert len(seen) <= 6
