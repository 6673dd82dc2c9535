"""How slow a source may be: a drip of one byte per time-out must not hold a node for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from embrasure import limits
from embrasure.errors import Unavailable

Seconds = Callable[[], float]  # a steady clock, such as time.monotonic


class Deadline:
    """One small file arrives within `seconds` in all."""

    def __init__(self, steady: Seconds, *, seconds: float = limits.METADATA_SECONDS) -> None:
        self._steady = steady
        self._end = steady() + seconds
        self._seconds = seconds

    def add(self, count: int) -> None:
        """Count bytes that came; raises Unavailable (`slow`) when it is too late."""
        if self._steady() > self._end:
            raise _slow(f"a file within {self._seconds:g} s", "a slower one")


class MinimumSpeed:
    """A large file keeps a mean speed over every window, after a grace."""

    def __init__(self, steady: Seconds) -> None:
        self._steady = steady
        self._start = steady()
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque([(self._start, 0)])

    def add(self, count: int) -> None:
        """Count bytes that came; raises Unavailable (`slow`) below the minimum speed."""
        moment = self._steady()
        self._total += count
        if moment - self._marks[-1][0] >= 1.0:
            self._marks.append((moment, self._total))
        while len(self._marks) > 1 and self._marks[1][0] <= moment - limits.BLOB_WINDOW_SECONDS:
            self._marks.popleft()
        if moment - self._start < limits.BLOB_GRACE_SECONDS:
            return
        since, before = self._marks[0]
        speed = (self._total - before) / max(moment - since, 1.0)
        if speed < limits.BLOB_BYTES_PER_SECOND:
            raise _slow(f"at least {limits.BLOB_BYTES_PER_SECOND} bytes/s", f"{speed:.0f} bytes/s")


def _slow(expected: str, got: str) -> Unavailable:
    return Unavailable("source", expected=expected, got=got, reason="slow")
