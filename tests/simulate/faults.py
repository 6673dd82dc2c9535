"""Counts every write that the node makes, and at one of them kills the process or fails the call.

with Faults(kill_at=7) as faults:   # or fail_at=7, error=errno.ENOSPC; kill_at=0 only counts
    faults.arm()                    # counting starts here
    ...
faults.count, faults.trace          # how many, and which: (operation, name)
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import pytest

from embrasure import descriptor, folder, kernel
from embrasure.bundle import store

OS_WRITES = (
    "write", "rename", "symlink", "unlink", "mkdir", "rmdir", "fsync", "fchmod", "ftruncate",
)  # fmt: skip
KERNEL_WRITES = ("rename_new", "syncfs", "reserve")


class _Counted(ModuleType):
    """The `os` of one module, with its writing calls wrapped."""

    def __init__(self, wrapped: dict[str, Callable[..., object]]) -> None:
        super().__init__("os")
        self.__dict__.update(os.__dict__)
        self.__dict__.update(wrapped)


class Faults:
    """Wraps the writes of this process's file layer while it is entered.

    Only the thread that arms it is counted: the supervisor's log lines come at any time.
    """

    def __init__(
        self,
        *,
        kill_at: int = 0,
        fail_at: int = 0,
        error: int = errno.EIO,
        after: bool = False,
        last_act: Callable[[], object] = lambda: None,
    ) -> None:
        """last_act: done just before the kill, in the process that is killed."""
        self.count = 0
        self.trace: list[tuple[str, str]] = []
        self._kill_at = kill_at
        self._fail_at = fail_at
        self._error = error
        self._after = after
        self._last_act = last_act
        self._thread: int | None = None
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        wrapped = {name: self._wrap(name, getattr(os, name)) for name in OS_WRITES}
        for module in (folder, descriptor, store):
            self._patch.setattr(module, "os", _Counted(wrapped))
        for name in KERNEL_WRITES:
            self._patch.setattr(kernel, name, self._wrap(name, getattr(kernel, name)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._patch.undo()

    def arm(self) -> None:
        """Counting starts, for this thread."""
        self._thread = threading.get_ident()

    def kill(self) -> None:
        """This process ends here."""
        self._thread = None
        self._last_act()
        os.kill(os.getpid(), signal.SIGKILL)

    def _wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **named: object) -> object:
            if self._thread != threading.get_ident():
                return real(*args, **named)
            self.count += 1
            self.trace.append((name, _subject(name, args)))
            if self.count == self._fail_at:
                raise OSError(self._error, os.strerror(self._error))
            if self.count == self._kill_at and not self._after:
                self.kill()
            number = self.count
            try:
                return real(*args, **named)
            finally:
                if number == self._kill_at:
                    self.kill()

        return counted


def _subject(name: str, args: tuple[object, ...]) -> str:
    """Return the name that the call is about; for a descriptor, the path behind it."""
    if name == "symlink" or name == "rename":
        return str(args[1])
    if name == "rename_new":
        return str(args[3])
    if isinstance(args[0], int):
        return str(Path(f"/proc/self/fd/{args[0]}").readlink())
    return str(args[0])
