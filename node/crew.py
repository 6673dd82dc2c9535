"""Threads that are kept: a new one costs more than the short conversation that it would hold.

Each holds one conversation at a time and nothing of the one before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from embrasure import limits

Work = Callable[[], None]


class Crew:
    """Does work, each piece in a thread that does nothing else meanwhile. None waits for another:
    where no thread is idle, one more begins.
    """

    def __init__(self) -> None:
        self._waiting = SimpleQueue[Work | None]()
        self._mutex = threading.Lock()
        self._idle, self._most = 0, limits.IDLE_THREADS

    def do(self, work: Work) -> None:
        """`work`, which raises nothing, is done soon; raises RuntimeError when no thread is to be
        had.
        """
        with self._mutex:
            is_fresh = not self._idle
            self._idle -= not is_fresh
        if is_fresh:
            threading.Thread(target=self._run, daemon=True).start()
        self._waiting.put(work)

    def close(self) -> None:
        """What is under way is finished; no thread is kept any more."""
        with self._mutex:
            idle, self._idle, self._most = self._idle, 0, 0
        for _ in range(idle):
            self._waiting.put(None)

    def _run(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()
            del work  # nothing of it stays while this thread waits
            with self._mutex:
                if self._idle >= self._most:
                    return
                self._idle += 1
