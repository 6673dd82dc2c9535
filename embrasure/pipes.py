"""Reads a pipe that a stranger gave us, and never waits in the read itself.

Who made the pipe may have kept its reading end: between our look that says "ready" and our read he
can take the bytes away, and a flag that says not to wait is his to change as well. So what there is
is first moved into a pipe of our own, by a call that says itself that it does not wait.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from types import TracebackType
from typing import Self

from embrasure import limits


def widen(fd: int, most: int) -> None:
    """The pipe takes `most` bytes before its writer waits, where the system lets us."""
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, most)


class Drain:
    """Takes bytes out of one pipe; the pipe itself stays its giver's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._out, self._in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        widen(self._in, limits.BUFFER_BYTES)

    def __enter__(self) -> Self:
        """Return the drain."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Our own pipe is closed."""
        os.close(self._out)
        os.close(self._in)

    def take(self, most: int) -> bytes | None:
        """Return what is there now, at most `most` bytes: b"" at the end of the pipe, None when
        nothing has come. Never waits.
        """
        try:
            count = os.splice(self._fd, self._in, most, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        return os.read(self._out, count) if count else b""
