"""Random numbers as a function of (seed, epoch, sample): no state to save, none to lose.

Neither the number of workers or devices nor a resumed run changes what a sample gets.
"""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mixed(*numbers: int) -> int:
    """One seed of 63 bits from several numbers (splitmix64, Steele, Lea and Flood, 2014)."""
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def uniform(seed: int, samples: Tensor, count: int) -> Tensor:
    """(N, count) float32 numbers in [0, 1), one row a sample; samples: int64 (N,).

    A 32-bit mixing function (Wang and others' xorshift-multiply) in int64 arithmetic, which
    every device does alike.
    """
    column = torch.arange(count, device=samples.device)
    state = samples[:, None] * count + column + (seed & 0xFFFFFFFF)
    for factor in (0x7FEB352D, 0x846CA68B):
        state = state & 0xFFFFFFFF
        state = state ^ (state >> 16)
        # of the product only the lower 32 bits count, so overflow beyond 64 does no harm
        state = (state * factor) & 0xFFFFFFFF
        state = state ^ (state >> 15)
    state = (state ^ (seed >> 31)) & 0xFFFFFFFF
    state = (state * 0x9E3779B1) & 0xFFFFFFFF
    state = state ^ (state >> 16)
    return (state >> 8).float() / (1 << 24)


def normal(seed: int, samples: Tensor, count: int) -> Tensor:
    """(N, count) normal numbers of mean 0 and variance 1 (Box and Muller, 1958)."""
    u = uniform(seed, samples, 2 * count)
    radius = (-2 * (1 - u[:, :count]).log()).sqrt()
    return radius * (2 * torch.pi * u[:, count:]).cos()


def seed_device(device: torch.device, seed: int) -> None:
    """Seed what draws on the CPU and on ``device``.

    `torch.manual_seed` does the same for every kind of device there might be, which takes longer
    than a step of a small network.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)
