"""Ends what takes too long: one thread for all waits of a process, where a timer is one for each.

A thread costs more than the small request that it watches.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FEW = 64  # waits that are over and still listed, beside as many as are under way


class _Wait:
    __slots__ = ("cut", "is_late", "is_over")

    def __init__(self, cut: Callable[[], None]) -> None:
        self.cut = cut
        self.is_late = self.is_over = False


class Cutoffs:
    """Waits under way, each with the moment at which it is cut."""

    def __init__(self) -> None:
        """No thread runs before the first wait."""
        self._changed = threading.Condition(threading.Lock())
        self._waits: list[tuple[float, int, _Wait]] = []  # a heap
        self._number = itertools.count()
        self._open = 0
        self._thread: threading.Thread | None = None

    @contextmanager
    def after(self, seconds: float, cut: Callable[[], None]) -> Iterator[Callable[[], bool]]:
        """When the block lasts longer than `seconds`, `cut` is called once, by another thread;
        never after its end. Yields a function that says whether that has happened.

        cut: ends what the block waits for; short, and raises nothing
        """
        wait = _Wait(cut)
        self._begin(wait, time.monotonic() + seconds)
        try:
            yield lambda: wait.is_late
        finally:
            with self._changed:
                wait.is_over = True
                self._open -= 1

    def _begin(self, wait: _Wait, at: float) -> None:
        with self._changed:
            self._open += 1
            if len(self._waits) > 2 * self._open + _FEW:
                self._waits = [one for one in self._waits if not one[2].is_over]
                heapq.heapify(self._waits)
            heapq.heappush(self._waits, (at, next(self._number), wait))
            # A process that was forked has the list, and not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="cutoffs", daemon=True)
                self._thread.start()
            elif self._waits[0][2] is wait:
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._waits and (self._waits[0][0] <= now or self._waits[0][2].is_over):
                    wait = heapq.heappop(self._waits)[2]
                    if not wait.is_over:
                        wait.is_late = True
                        wait.cut()
                self._changed.wait(self._waits[0][0] - now if self._waits else None)


CUTOFFS = Cutoffs()
