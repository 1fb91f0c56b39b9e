"""Runs a head: by its kernels as generated code does, or by its torch text in float64."""

import torch
import torch.nn.functional as F
from torch import Tensor

import convdsl.ops  # noqa: F401  (registers the heads)
from convdsl.ir.graph import Value
from convdsl.ir.head import Head, LossValues
from convdsl.ir.op import ParameterSpec
from convdsl.ir.types import DType, TensorType
from convdsl.runtime.support import started
from tests.kernel_driver import launch_all, logical, stored

SCALAR = TensorType((), DType.FLOAT32, batched=False)


def constant(spec: ParameterSpec) -> Tensor:
    return started(spec.shape, spec.initializer.function, spec.initializer.arguments)


def kernels(head: Head, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, what is stored of the gradient, and the gradient, by the head's kernels."""
    kind = TensorType(tuple(x.shape[1:]))
    labels = head.labels(kind)
    specs = head.constants(kind)
    values = LossValues(
        Value("x", kind),
        Value("labels", labels.type),
        Value("loss", SCALAR),
        Value("scale", SCALAR),
        Value("dx", kind),
        tuple(Value(k, TensorType(s.shape, s.dtype, False)) for k, s in specs.items()),
    )
    tensors = {
        values.output: stored(x),
        values.labels: y.clone() if labels.kind == "classes" else stored(y.float()),
        values.loss: torch.full((), float("nan")),
        values.scale: torch.full((), float("nan")),
        values.gradient: torch.full_like(stored(x), float("nan")),
    }
    tensors |= {v: constant(spec) for v, spec in zip(values.constants, specs.values(), strict=True)}
    launch_all(head.schedule(values), tensors, x.shape[0], x.dtype)
    raw = logical(tensors[values.gradient], kind)
    return tensors[values.loss], raw, raw.double() * tensors[values.scale].double()


def by_reference(head: Head, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the head's own torch text, in float64."""
    leaf = x.double().requires_grad_()
    specs = head.constants(TensorType(tuple(x.shape[1:])))
    constants = {name: constant(spec).double() for name, spec in specs.items()}
    y = y.double() if y.is_floating_point() else y
    scope = {"torch": torch, "F": F, "x": leaf, "y": y, **constants}
    loss = eval(head.loss("x", "y", *constants), scope)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]
