"""Watches the one port to the disk: counts every operation, and at one of them kills or fails.

with Faults(kill_at=7) as faults:   # or fail_at=7, error=errno.ENOSPC; kill_at=0 only counts
    faults.arm()                    # counting starts here
    ...
faults.count, faults.trace          # how many, and which: (call, path)

The operation is the real one, or it is not done at all: nothing stands in for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from embrasure import fsops
from embrasure.fsops import Op


def place(op: Op) -> str:
    """Return the path that the operation changes: for a rename or link, the new one."""
    fd, name = (op.to_fd, op.new) if op.new else (op.fd, op.name)
    folder = str(Path(f"/proc/self/fd/{fd}").readlink())
    return f"{folder}/{name}" if name else folder


def is_on_disk(op: Op) -> bool:
    """Return whether it is about a file: the same `write` also fills pipes."""
    mode = os.fstat(op.fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def kill() -> None:
    """This process ends here, as `kill -9` ends it."""
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """Sees the operations of one thread, the one that arms it: an app's log lines come when they
    like. What the node's supervisor does for that thread meanwhile is not counted.
    """

    def __init__(
        self,
        *,
        kill_at: int = 0,
        fail_at: int = 0,
        short_at: int = 0,
        error: int = errno.EIO,
        after: bool = False,
        lasting: bool = False,
        last_act: Callable[[], object] = lambda: None,
        each: Callable[[int], object] = lambda number: None,
    ) -> None:
        """after: the kill comes when the operation is done. short_at: a write that takes half of
        its bytes, or the first one after it. lasting: every later operation fails as well.
        last_act: done just before the kill, in the process that is killed. each: done before
        every operation, with its number.
        """
        self.count = 0
        self.trace: list[tuple[str, str]] = []
        self._kill_at = kill_at
        self._fail_at = fail_at
        self._short_at = short_at
        self._error = error
        self._after = after
        self._lasting = lasting
        self._last_act = last_act
        self._each = each
        self._thread: int | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(fsops.watched(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def arm(self) -> None:
        """Counting starts, for this thread."""
        self._thread = threading.get_ident()

    def disarm(self) -> None:
        """Counting ends."""
        self._thread = None

    def kill(self) -> None:
        """This process ends here."""
        self._thread = None
        self._last_act()
        kill()

    def before(self, op: Op) -> int | None:
        """Count the operation; kill, fail or shorten it if it is the one."""
        if self._thread != threading.get_ident() or not is_on_disk(op):
            return None
        self.count += 1
        self.trace.append((op.call, place(op)))
        self._each(self.count)
        if self.count == self._fail_at or (self._lasting and self.count > self._fail_at > 0):
            raise OSError(self._error, os.strerror(self._error))
        # An operation that fails by itself is followed by the next one, or by nothing.
        if 0 < self._kill_at == self.count - int(self._after):
            self.kill()
        if 0 < self._short_at <= self.count and op.call == "write" and len(op.data) > 1:
            self._short_at = 0
            return len(op.data) // 2
        return None

    def after(self, op: Op, result: int) -> None:
        """Kill, if this was the operation to be killed after."""
        is_it = self.count == self._kill_at and self._after
        if is_it and self._thread == threading.get_ident() and is_on_disk(op):
            self.kill()
