"""Callables -> seconds a call, taken in turn: whatever disturbs the machine disturbs all of them.

Assumes that a call has ended when it returns; for work on a device give its ``clock``.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: calls before the clock starts
WARM_UPS = 3
#: a round makes so many calls that it takes about as long, in seconds
ROUND = 0.02

#: times so many calls of a run: seconds a call
Clock = Callable[[Callable[[], object], int], float]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds a call, one number for every round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        if len(self.rounds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.rounds, n=4, method="inclusive")
        return (third - first) / self.median


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Clock | None = None,
    round_seconds: float = ROUND,
) -> dict[str, Times]:
    """Time every run once in each of ``rounds`` rounds: a, b, c, a, b, c ...

    Each round begins with another run, so that none always comes behind the same one. A quick run
    is called several times in a round. clock: ``clock(run, calls)`` is seconds a call, the host's
    by default. Raises ValueError for no rounds.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    clock = clock or _seconds
    calls = {name: _calls(run, clock, round_seconds) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for place in range(rounds):
        first = place % len(names) if names else 0
        for name in names[first:] + names[:first]:
            taken[name].append(clock(runs[name], calls[name]))
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def _calls(run: Callable[[], object], clock: Clock, round_seconds: float) -> int:
    """How often to call ``run`` in a round, after warming it up."""
    for _ in range(WARM_UPS):
        run()
    return max(1, int(round_seconds / clock(run, 1)))


def _seconds(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls
