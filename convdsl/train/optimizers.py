"""A recipe -> the optimiser and the schedule of its learning rate, both torch's."""

import warnings
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from convdsl.optim import SGD, Adam, AdamW
from convdsl.train.problem import TrainingError
from convdsl.train.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Over what is not frozen. Weights decay; biases and scales, of one axis, do not.

    Raises TrainingError if everything is frozen.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    if not learned:
        raise TrainingError("E416", "every parameter is frozen", "freeze fewer: --freeze")
    decayed = [p for p in learned if p.dim() > 1]
    kept = [p for p in learned if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, recipe.weight_decay), (kept, 0.0))
        if parameters
    ]
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.rate, momentum=recipe.momentum)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=recipe.rate, momentum=recipe.momentum)
    kind = AdamW if recipe.optimizer == "adamw" else Adam
    return kind(groups, lr=recipe.rate, betas=(recipe.momentum, 0.999))


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int
) -> lr_scheduler.LRScheduler | None:
    """What changes the learning rate at each of ``steps``; None for plateau and constant.

    step: a tenth after half and after three quarters. cosine: to zero. onecycle: up for 30 % of
    the run or ``warmup``, then down (Smith and Topin, 2018). warmup: a line from 1 % up.
    """
    warm = min(steps - 1, round(steps * recipe.warmup / recipe.epochs))
    if recipe.schedule == "onecycle":
        up = warm / steps if warm > 0 else 0.3
        # momentum stays: it is the recipe's
        return lr_scheduler.OneCycleLR(
            optimizer, recipe.rate, total_steps=steps + 1, pct_start=up, cycle_momentum=False
        )
    rest = steps - max(0, warm)
    main: lr_scheduler.LRScheduler | None = None
    if recipe.schedule == "step":
        places = sorted({max(1, rest // 2), max(1, rest * 3 // 4)})
        main = lr_scheduler.MultiStepLR(optimizer, places, 0.1)
    elif recipe.schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, max(1, rest))
    if warm <= 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm)
    if main is None:
        return rise
    return lr_scheduler.SequentialLR(optimizer, [rise, main], [warm])


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Bring state that came from a file into its parameter's order in memory, for the kernels."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, torch.Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def renewed(
    optimizer: torch.optim.Optimizer, model: nn.Module, recipe: Recipe, steps: int, done: int
) -> lr_scheduler.LRScheduler | None:
    """The schedule of ``steps`` after ``done`` of them, when state of another recipe was loaded.

    The optimiser keeps its moments; all numbers are the recipe's.
    """
    for group, fresh in zip(
        optimizer.param_groups, make_optimizer(model, recipe).param_groups, strict=True
    ):
        parameters = group["params"]
        group.clear()
        group.update({**fresh, "params": parameters})
    schedule = make_schedule(optimizer, recipe, steps)
    if schedule is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no step of the optimiser came before
            for _ in range(min(done, steps)):
                schedule.step()
    return schedule


def make_plateau(optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
    """A tenth whenever the held-out loss has not sunk for five epochs."""
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=5, min_lr=1e-8)
