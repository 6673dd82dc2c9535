"""Signals to processes of an app's user, sent as that user: they reach nobody else on this host.

Apply has no CAP_KILL, so as root it may signal root's processes alone. One thread takes the user
as its effective one, sends, and comes back. Credentials belong to threads; libc's call would change
those of all, so the system call is made itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from embrasure.errors import Failed
from node.users import User

_SETRESUID = {"x86_64": 117, "aarch64": 147}
_HIGHEST = 2**32 - 3  # no user of any host; one above it is `nobody` on some
_EVERYBODY = -1  # whom the caller may signal, but for its own process
_libc = ctypes.CDLL(None, use_errno=True)

Job = tuple[int, Callable[[], None], "Future[None]"]


def send(pids: Iterable[int], number: signal.Signals, user: User) -> None:
    """Each of `pids` that lives and is the user's has the signal; raises Failed (`start`)."""
    _done_as(user, lambda: _each(pids, number))


def end_all(user: User) -> None:
    """Each process of the user has SIGKILL, in one call of the kernel, which no fork slips through.

    Raises Failed (`start`).
    """
    _done_as(user, lambda: _each((_EVERYBODY,), signal.SIGKILL))


def _each(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):  # it ended, or is another's
            os.kill(pid, number)


class _Sender:
    """A thread that waits for work. An app that forks may leave no room to start one then."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._serve, name="as-user", daemon=True).start()

    def _serve(self) -> None:
        while True:
            uid, work, done = self.jobs.get()
            try:
                _become(uid)
                try:
                    work()
                finally:
                    _set_ids(0, 0, 0)
            except BaseException as problem:  # handed to the one who asked
                done.set_exception(problem)
            else:
                done.set_result(None)
            # The user could slow the thread down while it was the user's: another one takes over.
            with suppress(RuntimeError):
                self._start()
                return


_sender: _Sender | None = None
_making = threading.Lock()


def _done_as(user: User, work: Callable[[], None]) -> None:
    """`work` was done with the rights of the user alone."""
    global _sender  # one for a process, and a fork has no thread of its parent's
    with _making:
        if _sender is None or _sender.process != os.getpid():
            _sender = _Sender()
    done: Future[None] = Future()
    _sender.jobs.put((user.uid, work, done))
    try:
        done.result()
    except OSError as problem:
        raise Failed(
            "signal", expected=f"to be sent as user {user.uid}", got=str(problem), reason="start"
        ) from problem


def _become(uid: int) -> None:
    """This thread has the user's rights and no capability in force; raises OSError.

    Its real id is nobody's: as the user's it would let that user signal this process, as root's it
    would let the signals reach root's. The saved one is root's, which gives no right until it
    comes back.
    """
    nobody = stranger(Path("/proc/self/uid_map").read_text(encoding="ascii"))
    if uid < 1 or nobody in (0, uid):
        raise PermissionError("no user to be, or no number for nobody")
    _set_ids(nobody, uid, 0)
    if os.getresuid() != (nobody, uid, 0):  # else a signal to everybody would end all of root's
        raise PermissionError("not the user")


def _set_ids(real: int, effective: int, saved: int) -> None:
    """This thread has these user ids, no other thread has them; raises OSError."""
    call = _SETRESUID.get(platform.machine())
    if call is None:
        raise PermissionError("no system call numbers for this machine")
    ids = (ctypes.c_uint(number) for number in (real, effective, saved))
    if _libc.syscall(ctypes.c_long(call), *ids) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def stranger(uid_map: str) -> int:
    """Return the number of nobody in this user namespace: the highest that it has."""
    rows = [[int(word) for word in line.split()] for line in uid_map.splitlines()]
    return min(_HIGHEST, max((first + count - 1 for first, _, count in rows), default=0))
