"""Random operands of layers that convolve, their oracle, and both runs of their gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from convdsl.compiler import Network, compile_text
from convdsl.ir.op import Layer
from convdsl.ir.types import TensorType
from tests.empty_cache import empty_cache
from tests.kernel_driver import meaning
from tests.op_driver import forward_backward, reference

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


def operands(
    layer: Layer, shape: Sequence[int], n: int, dtype: torch.dtype, seed: int = 1
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """(x, parameters, dy); biases stay in float32, as masters are."""
    generator = torch.Generator().manual_seed(seed)
    kind = TensorType(tuple(shape))

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator)

    x = random(n, *shape).to(dtype)
    parameters = tuple(
        random(*spec.shape).to(dtype if len(spec.shape) > 1 else torch.float32)
        for spec in layer.parameters(kind).values()
    )
    return x, parameters, random(n, *layer.shape(kind).shape).to(dtype)


def oracle(
    layer: Layer, x: Tensor, parameters: Sequence[Tensor], dy: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and gradients to (x, *parameters) by autograd in float64."""
    leaves = [t.double().requires_grad_() for t in (x, *parameters)]
    (y,) = meaning(layer, *leaves)
    return y.detach(), torch.autograd.grad(y, leaves, dy.double())


def by_kernels(
    layer: Layer, x: Tensor, parameters: Sequence[Tensor], dy: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients as `oracle`, each op of the layer by its kernels."""
    (y,), gradients = forward_backward(layer, [x], dy, parameters=parameters)
    return y, gradients


def by_meaning(
    layer: Layer, x: Tensor, parameters: Sequence[Tensor], dy: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients as `oracle`, each op of the layer by its torch reference."""
    (y,), gradients = forward_backward(layer, [x], dy, parameters=parameters, by=reference)
    return y, gradients


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The largest deviation is within ``tolerance`` of the largest number."""
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
        assert error <= tolerance


def assert_targets_agree(program: str, batch: int = 2, tolerance: float = 1e-5) -> None:
    """Outputs and all gradients of both targets against the torch target in float64."""
    with empty_cache():
        _agree(compile_text(program), batch, tolerance)


def _agree(network: Network, batch: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = [
        torch.randn(batch, *value.type.shape, generator=generator) for value in network.graph.inputs
    ]
    answers = []
    state: dict[str, Tensor] | None = None
    for target, dtype in (
        ("torch", torch.float64),
        ("torch", torch.float32),
        ("triton", torch.float32),
    ):
        model = network.module(device="cpu", target=target, dtype=dtype)
        if state is None:
            state = {
                k: torch.randn(v.shape, generator=generator) for k, v in model.state_dict().items()
            }
        model.load_state_dict(state)
        leaves = [x.clone().to(dtype).requires_grad_() for x in inputs]
        y = model(*leaves)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
        owned = [p for _, p in model.named_parameters()]
        answers.append((y, *torch.autograd.grad(y, [*leaves, *owned], dy.to(dtype))))
        with torch.no_grad():
            assert_close(model(*leaves), answers[0][0], tolerance)
    for answer in answers[1:]:
        for actual, expected in zip(answer, answers[0], strict=True):
            assert_close(actual, expected, tolerance)
