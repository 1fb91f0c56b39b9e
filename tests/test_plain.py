"""Plain PyTorch on a CPU: what it computes in where the processor lacks the type asked for."""

import sys

import pytest
import torch
from torch import Tensor, nn

from convdsl.compiler import compile_text
from convdsl.runtime.plain import EMULATED, emulated

TEXT = "input 3@8x8\nnet Plain = CONV(4) - BN - RELU - POOL - FC(3), SOFTMAX\n"


def made(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return compile_text(TEXT).module(device="cpu", dtype=dtype, target="torch")


def lacking(monkeypatch: pytest.MonkeyPatch, model: nn.Module, *types: torch.dtype) -> None:
    monkeypatch.setattr(sys.modules[type(model).__module__], "EMULATED", frozenset(types))


def seen(model: nn.Module) -> list[torch.dtype]:
    """The types of inputs that its convolution gets, filled in as it runs."""
    found: list[torch.dtype] = []
    convolve = model.outputs

    def outputs(*inputs: Tensor) -> tuple[Tensor, ...]:
        found.extend(x.dtype for x in inputs)
        result: tuple[Tensor, ...] = convolve(*inputs)  # type: ignore[operator]
        return result

    object.__setattr__(model, "outputs", outputs)
    return found


def test_a_type_that_is_emulated_is_that_of_inputs_and_outputs_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    narrow, wide = made(torch.bfloat16), made(torch.float32)
    lacking(monkeypatch, narrow, torch.bfloat16)
    x = torch.randn(5, 3, 8, 8)
    found = seen(narrow)
    y = narrow(x)
    assert found == [torch.float32]
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, wide(x.bfloat16().float()).bfloat16())
    labels = torch.tensor([0, 1, 2, 0, 1])
    narrow(x, labels).backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in narrow.parameters())


def test_other_types_autocast_and_parameters_of_the_type_are_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made(torch.bfloat16)
    found = seen(model)
    x = torch.randn(2, 3, 8, 8)
    lacking(monkeypatch, model, torch.float16)
    model(x)
    lacking(monkeypatch, model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    model.bfloat16()(x, torch.tensor([0, 1])).backward()
    assert found == [torch.bfloat16] * 3


def test_what_the_processor_lacks_is_asked_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert emulated() == EMULATED
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert emulated() == {torch.bfloat16, torch.float16}
