"""The part of the support code that only Triton modules need; copied like `support`."""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def check_device(x: Tensor, kernel: Any) -> None:
    """ValueError unless the kernels can run where ``x`` is, in its dtype."""
    interpreted = not isinstance(kernel, triton.JITFunction)
    if interpreted and x.dtype == torch.bfloat16:
        raise ValueError("Triton's interpreter computes bfloat16 wrongly: use float32 or float16")
    if not interpreted and not x.is_cuda:
        raise ValueError(
            f"Triton kernels need a CUDA or ROCm device, the input is on {x.device}: use "
            "target='torch', or set TRITON_INTERPRET=1 before the import to run them slowly"
        )
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"the kernels compute in float32, float16 or bfloat16, not {x.dtype}")


def refuse_double_backward() -> None:
    """RuntimeError inside ``backward(create_graph=True)``: the kernels are differentiated once."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fused kernels have no second derivative (create_graph=True): take the plain "
            "PyTorch view of the same network, module(target='torch')"
        )


def new_seed(x: Tensor, training: bool) -> Tensor:
    """One int64 beside ``x`` for a pass's random numbers, below 0 where there are to be none.

    It never comes to the host: a CUDA graph draws another one whenever it is replayed.
    """
    if training:
        return torch.randint(2**31 - 1, (1,), device=x.device)
    return torch.full((1,), -1, device=x.device)


def boxes(
    tensor: Tensor, shape: Sequence[int], stride: int, block: Sequence[int]
) -> TensorDescriptor:
    """``tensor``, seen as of this ``shape``, for a kernel to load in boxes of the ``block``.

    Its rows along the last axis lie ``stride`` elements apart. It is copied if the hardware cannot
    address it: memory or rows that do not begin at multiples of 16 bytes, or no elements at all.
    """
    if 0 in shape:
        shape = [max(size, 1) for size in shape]
        tensor, stride = tensor.new_empty(shape), shape[-1]
    elif tensor.data_ptr() % 16 or stride * tensor.element_size() % 16:
        tensor, stride = tensor.clone(), shape[-1]
    strides = [stride, 1]
    for size in reversed(shape[1:-1]):
        strides.insert(0, size * strides[0])
    return TensorDescriptor(tensor, list(shape), strides, list(block))
