"""What to say when memory ran out: what the plan expected, and which batch would fit."""

from typing import Any

import torch

from convdsl.compiler import Network
from convdsl.report.quantities import COMPUTE_BYTES
from convdsl.train.recipe import Recipe

GIB = 1 << 30
#: bytes an optimiser keeps for each parameter, in float32
_STATE = {"sgd": 4, "adam": 8, "adamw": 8, "rmsprop": 8}


def memory_advice(lit: Any, recipe: Recipe) -> tuple[str, str]:
    """Message and help. lit: a `LitNetwork`."""
    total = _device_memory()
    said = f"out of memory with batches of {recipe.batch}"
    compiled: Network | None = lit.compiled
    if compiled is None:
        return said, "smaller --batch"
    dtype = recipe.precision if recipe.precision in COMPUTE_BYTES else "fp32"

    def needed(batch: int) -> int:
        state = _STATE[recipe.optimizer] * compiled.parameters_count
        return compiled.plan(batch, dtype).total + state

    said += f"; the plan expects {needed(recipe.batch) / GIB:.2f} GiB"
    if total is None:
        return said, "smaller --batch"
    fits = 0
    step = 1 << 20
    while step:
        if fits + step < recipe.batch and needed(fits + step) <= 0.9 * total:
            fits += step
        step //= 2
    said += f", the device has {total / GIB:.2f} GiB"
    if not fits:
        return said, "not even one sample fits: --precision bf16, or a smaller input"
    return said, f"--batch {fits} would fit by the plan"


def _device_memory() -> int | None:
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[1])
