"""A trained module -> one for inference, batch normalisation folded into the weights before it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convdsl.passes.fold_norms import Fold
from convdsl.runtime.module import Compiled, make_module


def folded_state(state: dict[str, Tensor], folds: Sequence[Fold]) -> dict[str, Tensor]:
    """The state_dict after the folds, worked out in float64; what they used up is left out."""
    left = dict(state)
    for fold in folds:
        scale, shift, mean, var = (left.pop(path).double() for path in fold.norm)
        scale = scale / (var + fold.eps).sqrt()
        weight, bias = state[fold.weight], left.get(fold.bias, torch.zeros_like(mean))
        by_filter = scale.view(-1, *[1] * (weight.dim() - 1))
        left[fold.weight] = (weight.double() * by_filter).to(weight.dtype)
        left[fold.bias] = ((bias.double() - mean) * scale + shift).to(weight.dtype)
    return left


def folded_module(network: Compiled, folds: Sequence[Fold], trained: nn.Module) -> nn.Module:
    """A module of the ``network`` left by the folds, with the weights of ``trained``.

    Raises ValueError if they do not fit.
    """
    if (constrain := getattr(trained, "constrain", None)) is not None:
        constrain()  # as its next call would
    state = trained.state_dict()
    first = next(iter(state.values()), torch.empty(0))
    dtype, layout = getattr(trained, "dtype", None), getattr(trained, "layout", "NCHW")
    target = "triton" if hasattr(trained, "kernel_weights") else "torch"
    module = make_module(network, first.device, dtype, target, layout, "triton").to(first.dtype)
    try:
        module.load_state_dict(folded_state(state, folds))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"this is no module of {network.name}: {error}") from error
    return module.eval().requires_grad_(False)
