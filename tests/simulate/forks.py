"""The product's command in forked processes: the same code, without the start of an interpreter.

A server has loaded what the command loads, and forks for each call; in a sweep of thousands of
calls the start of Python and its imports would cost more than all else.

    with Forks() as forks:
        forks.learn(["node", "boot", "--root", "/srv/n1"])
        pid = forks.start([...], said, gated=True)
        ...                                        # somebody traces it now
        forks.go(pid)
        status = forks.wait(pid, seconds=60)       # as `os.waitpid` says it
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
_GATE = signal.SIGUSR1


class Forks:
    """A server of its own, until the block ends."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()

    def learn(self, arguments: Sequence[str]) -> None:
        """The command is run once; from now on the server has loaded what it loads."""
        self._ask("learn", list(arguments))

    def start(self, arguments: Sequence[str], said: Path, *, gated: bool = False) -> int:
        """Return the process that runs the command; what it says is written to `said`.

        gated: not before `go`
        """
        return int(self._ask("start", list(arguments), str(said), gated))

    def go(self, pid: int) -> None:
        """It runs."""
        os.kill(pid, _GATE)

    def wait(self, pid: int, *, seconds: float = 60) -> int:
        """Return how it ended; killed when that takes longer."""
        status: int = self._ask("wait", pid, seconds)
        return status

    def _ask(self, *request: object) -> Any:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _serve() -> None:
    told = os.dup(1)
    os.dup2(2, 1)
    for line in iter(sys.stdin.buffer.readline, b""):
        verb, *given = json.loads(line)
        answer = _VERBS[verb](*given)
        os.write(told, json.dumps(answer).encode() + b"\n")


def _learn(arguments: list[str]) -> int:
    read_end, write_end = os.pipe()
    if not os.fork():
        _run(
            arguments, os.devnull, lambda: os.write(write_end, json.dumps([*sys.modules]).encode())
        )
    os.close(write_end)
    with os.fdopen(read_end) as file:
        names = json.load(file)
    os.wait()
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert threading.active_count() == 1, "a thread would be missing in the children"
    return 0


def _start(arguments: list[str], said: str, gated: bool) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, [_GATE])
    child = os.fork()
    if not child:
        if gated:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
            signal.sigwait([_GATE])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [_GATE])
        _run(arguments, said)
    return child


def _wait(pid: int, seconds: float) -> int:
    with contextlib.closing(_Descriptor(os.pidfd_open(pid))) as ended:
        if not select.select([ended], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


class _Descriptor:
    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        os.close(self._number)


def _run(arguments: list[str], said: str, at_end: Any = None) -> None:
    """Run the command as `embrasure` does; never returns."""
    status = 70
    try:
        with Path(os.devnull).open() as nothing, Path(said).open("ab", buffering=0) as out:
            os.dup2(nothing.fileno(), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        from embrasure.cli import main

        status = main(arguments)
        if at_end:
            at_end()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


_VERBS: dict[str, Callable[..., int]] = {"learn": _learn, "start": _start, "wait": _wait}

if __name__ == "__main__":
    _serve()
