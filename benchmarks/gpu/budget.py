"""How long a call may still take, and what is left out with its reason when something fails."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

#: seconds at the end that no new part is begun in
RESERVE = 10.0


class LateError(RuntimeError):
    """Something took longer than it was given."""


class Budget:
    """Seconds from now on. step: the most that one candidate may take to be prepared and timed."""

    def __init__(self, seconds: float, step: float) -> None:
        self.end = time.monotonic() + seconds
        self.step = step

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def attempt(self, what: Callable[[], T], limit: float | None = None) -> T | str:
        """What the call gives; as text the reason why it gave nothing.

        A call that takes more than ``limit`` seconds, ``step`` by default, or more than are left,
        is interrupted.
        """
        if self.left < RESERVE:
            return "no time left"
        try:
            with _alarm(min(limit or self.step, self.left)):
                return what()
        except Exception as error:  # whatever a compiler or a driver raises: it is reported
            line = next(iter(str(error).strip().splitlines()), "")
            return f"{type(error).__name__}: {line}"[:300]


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """`LateError` in the main thread after so many seconds."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise LateError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
