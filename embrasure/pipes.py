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
        # A whole message of it is moved at once: each time its writer is woken for the room.
        widen(self._in, limits.MESSAGE_BYTES)
        self.held = 0  # bytes that were moved, and not taken yet

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
        if not self.held:
            try:
                self.held = os.splice(
                    self._fd, self._in, limits.MESSAGE_BYTES, flags=os.SPLICE_F_NONBLOCK
                )
            except BlockingIOError:
                return None
            if not self.held:
                return b""
        piece = os.read(self._out, min(most, self.held))
        self.held -= len(piece)
        return piece
