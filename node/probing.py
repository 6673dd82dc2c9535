"""Apply's side of the prober: a process of the app's user, asked line by line, never trusted with
more than a word on its own app.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from node import processes
from node.prober import LINE_BYTES, write_question
from node.users import User

_START_SECONDS = 10.0  # an interpreter, on a busy machine; with gRPC
_SLACK_SECONDS = 1.0
# Imported, not run as a file: then its compiled form is used, too.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); from node.prober import main; sys.exit(main())"
)
_ROOT = str(Path(__file__).resolve().parents[1])


class Prober:
    """One prober process. To be made by the thread that keeps the network, used by one other."""

    def __init__(self, user: User | None, *, grpc: bool = False) -> None:
        self._user = user
        who = "-" if user is None else f"{user.uid}:{user.gid}"
        python = [sys.executable, "-I", *([] if grpc else ["-S"])]  # gRPC is no standard library
        command = [*python, "-c", _PROGRAM, _ROOT, str(os.getpid()), who]
        self._process = processes.start_helper([*command, *(["grpc"] if grpc else [])])
        if self._process.stdin is not None:
            os.set_blocking(self._process.stdin.fileno(), False)
        self._is_fresh, self._is_killed = True, False

    @property
    def is_dead(self) -> bool:
        """Whether it will not answer any more."""
        return self._process.poll() is not None or self._is_killed

    def check(self, asked: Mapping[str, object]) -> str:
        """Return what is wrong, empty when the probe passes."""
        seconds = asked.get("seconds")
        said = self._ask(asked, float(seconds) if isinstance(seconds, int | float) else 0.0)
        return said if said is not None else "prober: no answer"

    def _ask(self, asked: Mapping[str, object], seconds: float) -> str | None:
        """Return its answer; None, and its end, when none comes in time, or what is no sentence."""
        until = time.monotonic() + seconds + (_START_SECONDS if self._is_fresh else _SLACK_SECONDS)
        self._is_fresh = False
        line = write_question(asked)
        pipe, answer = self._process.stdin, self._process.stdout
        if pipe is None or answer is None or len(line) > LINE_BYTES:
            return None
        try:
            _tell(pipe, line, until)
            return _sentence(_line(answer.fileno(), until))
        except (OSError, ValueError):
            processes.kill(self._process, self._user)
            self._is_killed = True
            return None

    def close(self) -> None:
        """The process is gone."""
        processes.kill(self._process, self._user)
        processes.ended(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def _tell(pipe: IO[bytes], line: bytes, until: float) -> None:
    """The whole line is in the pipe; raises TimeoutError. Who runs as its user can stop a prober,
    and a question about thousands of processes is longer than a pipe.
    """
    waiting, rest = select.poll(), memoryview(line)
    waiting.register(pipe, select.POLLOUT)
    while rest:
        left = until - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise TimeoutError("not heard in time")
        rest = rest[pipe.write(rest) or 0 :]


def _sentence(line: bytes) -> str:
    """Return the answer in a line, which the app's user may have written; raises ValueError."""
    text = line.removesuffix(b"\n").decode()[:300]
    if not text.isprintable():
        raise ValueError("no sentence")
    return text


def _line(fd: int, until: float) -> bytes:
    """Return the next line; raises TimeoutError, ValueError."""
    held = b""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    while not held.endswith(b"\n"):
        left = until - time.monotonic()
        if left <= 0 or not waiting.poll(left * 1000):
            raise TimeoutError("no answer in time")
        piece = os.read(fd, LINE_BYTES)
        held += piece
        if not piece or len(held) > LINE_BYTES:
            raise ValueError("no whole line")
    return held
