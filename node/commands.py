"""Runs one command of a release to its end: hooks and exec probes.

Exit or time-out ends the whole of it: nothing that a command forked outlives it. What it may touch
is the back end's matter (`node/backends.py`).
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from node import processes
from node.backends import Backend, Bare, Room, Started
from node.output import Output

_GRACE_SECONDS = 2.0  # SIGTERM to SIGKILL
_STEP_SECONDS = 0.01
_HALT_SECONDS = 0.2  # until a stopping node is noticed
_QUIET_LOOKS = 2  # in a row that find nothing: /proc is no snapshot
BARE = Bare()
NOTHING = Room(read=(), write=(), user=None)


@dataclass(frozen=True, slots=True)
class Finished:
    """code: exit status, negative for a signal, None for a time-out."""

    code: int | None
    output: bytes

    @property
    def is_good(self) -> bool:
        """Whether it ended by itself, with 0."""
        return self.code == 0


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    seconds: float,
    halt: threading.Event | None = None,
    backend: Backend = BARE,
    room: Room = NOTHING,
) -> Finished:
    """Return how `argv` ended; none of its processes lives any more.

    argv[0] and cwd: absolute. An argv that cannot be started ends with 127. halt: set to end it
    as if its time were over. Raises Denied when the back end does not start it at all.
    """
    token = secrets.token_hex(16)
    with ExitStack() as held:
        started = backend.start(argv, {**env, processes.TOKEN: token}, cwd, room, held)
        read_end, write_end = os.pipe()
        try:
            process = processes.spawn(
                started.argv, env=started.env, cwd=cwd, output=write_end, token=token,
                user=started.user, keep=started.keep,
            )  # fmt: skip
        except OSError as problem:
            os.close(read_end)
            return Finished(127, str(problem.strerror).encode())
        finally:
            os.close(write_end)
    output = Output(read_end, None)
    try:
        code = _wait(process, output, time.monotonic() + seconds, halt or threading.Event())
        if code is None:
            backend.ask(token)
        _clear(process, token, started)
        backend.end(token)
        output.take()
        return Finished(code, output.whole())
    finally:
        output.close()


def _wait(
    process: subprocess.Popen[bytes], output: Output, until: float, halt: threading.Event
) -> int | None:
    """Return the exit status, None when `until` came first. A silent end of output is no end."""
    pidfd = os.pidfd_open(process.pid)
    try:
        waiting = [pidfd, output.fileno()]
        while (left := until - time.monotonic()) > 0 and not halt.is_set():
            ready, _, _ = select.select(waiting, [], [], min(left, _HALT_SECONDS))
            if output.fileno() in ready and not output.take():
                waiting.remove(output.fileno())
            if pidfd in ready:
                return process.wait()
        return None
    finally:
        os.close(pidfd)


def _clear(process: subprocess.Popen[bytes], token: str, started: Started) -> None:
    """Nothing of the command lives: asked first, then killed, what it forks meanwhile as well.

    Of a wrapped one the first process is not asked: with its end all others would be killed.
    """
    number, until = signal.SIGTERM, time.monotonic() + _GRACE_SECONDS
    if process.poll() is not None:
        number = signal.SIGKILL  # it ended; what it left behind has no say
    quiet = 0
    while quiet < _QUIET_LOOKS:
        alive = processes.members(process.pid, token)
        quiet = 0 if alive else quiet + 1
        if time.monotonic() >= until:
            number = signal.SIGKILL
        spares = started.is_wrapped and number == signal.SIGTERM
        processes.send(alive - ({process.pid} if spares else set()), number, started.user)
        process.poll()
        time.sleep(_STEP_SECONDS)
    processes.ended(process)
