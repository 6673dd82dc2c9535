"""Asks an app whether it is well, and proves that the new release gave the answer.

Loopback only, no redirect, no name look-up, every byte and every second bounded.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.bundle.manifest import ExecProbe, HttpProbe, Probe, TcpProbe
from embrasure.errors import Failed, Unavailable
from node import commands, listening

HOST = "127.0.0.1"
_STARTING_SECONDS = 0.2
_LOOK_SECONDS = 0.1  # until a dead app or a stopping node is seen
_HEAD_BYTES = 64 * limits.KIB
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r\n")
_RELEASE = re.compile(rb"\r\nembrasure-release:[ \t]*([0-9a-f]{16})[ \t]*\r\n", re.IGNORECASE)


Run = Callable[[Sequence[str], Mapping[str, str], Path, float], commands.Finished]


def run_bare(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float
) -> commands.Finished:
    """Return how the command ended, which ran as the node itself."""
    return commands.run(command, env=env, cwd=cwd, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Target:
    """The instance that must answer.

    ports: number by name; release: first 16 digits of its manifest's digest; members: its living
    processes now; argv: absolute argument list of a declared command; run: runs it.
    """

    ports: Mapping[str, int]
    release: str
    env: Mapping[str, str]
    cwd: Path
    members: Callable[[], frozenset[int]]
    is_alive: Callable[[], bool]
    argv: Callable[[Sequence[str]], list[str]]
    run: Run = run_bare


class Died(Failed):
    """The app ended while it was being probed."""

    default_reason = "crash-loop"


def ask(probe: Probe, target: Target) -> str:
    """Return what is wrong, empty when the probe passes."""
    if isinstance(probe, ExecProbe):
        return _ask_command(probe, target)
    seconds = probe.timeout_ms / 1000
    try:
        if isinstance(probe, HttpProbe):
            wrong, has_name = _ask_http(probe, target, time.monotonic() + seconds)
        else:
            wrong, has_name = _ask_tcp(probe, target, seconds), False
    except OSError as problem:
        return f"port {probe.port}: {problem.strerror or 'no answer in time'}"
    # Anybody can say the name, it is no secret; a local user who was first at the port, too.
    if wrong or (has_name and not listening.is_of_stranger(target.ports[probe.port])):
        return wrong
    # Any process may hold the port: the old release, or a stranger. Only ours counts.
    if not listening.is_held_by(target.ports[probe.port], target.members()):
        return f"port {probe.port}: answered by another process than the new release"
    return ""


def _ask_command(probe: ExecProbe, target: Target) -> str:
    command, seconds = target.argv(probe.argv), probe.timeout_ms / 1000
    ended = target.run(command, target.env, target.cwd, seconds)
    if ended.is_good:
        return ""
    return "command: no end in time" if ended.code is None else f"command: ended with {ended.code}"


def _ask_tcp(probe: TcpProbe, target: Target, seconds: float) -> str:
    with socket.create_connection((HOST, target.ports[probe.port]), timeout=seconds):
        return ""


def _ask_http(probe: HttpProbe, target: Target, until: float) -> tuple[str, bool]:
    """Return what is wrong, and whether the answer names the new release."""
    port = target.ports[probe.port]
    request = (
        f"GET {probe.path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        "User-Agent: embrasure-probe\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((HOST, port), timeout=_left(until)) as connection:
        connection.sendall(request.encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head:
            # A server that sends one byte a second must not stretch the time-out.
            connection.settimeout(_left(until))
            piece = connection.recv(_HEAD_BYTES)
            head += piece
            if not piece or len(head) > _HEAD_BYTES:
                return f"port {probe.port}: no HTTP answer", False
    found = _STATUS.match(head)
    if found is None:
        return f"port {probe.port}: no HTTP answer", False
    if int(found[1]) != probe.status:
        return f"port {probe.port}: status {int(found[1])}, expected {probe.status}", False
    named = _RELEASE.search(head[: head.index(b"\r\n\r\n") + 2])
    return "", named is not None and named[1].decode().lower() == target.release


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


class Watch:
    """All probes of one release, each at its own interval."""

    def __init__(self, probes: Sequence[Probe], target: Target, *, halt: threading.Event) -> None:
        self._probes = tuple(probes)
        self._target = target
        self._halt = halt
        self.wrong = ""

    def until_well(self) -> None:
        """Return when every probe has passed its number of times in a row.

        Raises Failed (`probe`) when one has not within its start time, Died, and Unavailable
        (`stopping`) when this node is being stopped.
        """
        began = time.monotonic()
        passed = [0] * len(self._probes)
        due = [began] * len(self._probes)
        while any(n < p.passes for n, p in zip(passed, self._probes, strict=True)):
            number = min(range(len(due)), key=due.__getitem__)
            probe = self._probes[number]
            self._sleep_until(due[number])
            wrong = self._one(probe)
            pause = probe.interval_ms / 1000
            # A starting app is asked more often: whole waves wait for its first good answer.
            due[number] = time.monotonic() + (min(pause, _STARTING_SECONDS) if wrong else pause)
            passed[number] = 0 if wrong else passed[number] + 1
            if wrong and time.monotonic() - began > probe.start_s:
                raise self._failed(wrong)

    def through(self, seconds: float) -> None:
        """Return when `seconds` are over and no probe has failed once; raises as `until_well`."""
        began = time.monotonic()
        due = [began + p.interval_ms / 1000 for p in self._probes]
        while True:
            number = min(range(len(due)), key=due.__getitem__)
            if due[number] >= began + seconds:
                break
            self._sleep_until(due[number])
            if wrong := self._one(self._probes[number]):
                raise self._failed(wrong)
            due[number] = time.monotonic() + self._probes[number].interval_ms / 1000
        self._sleep_until(began + seconds)
        self._check_alive()

    def while_waiting(self, word: threading.Event, left_s: Callable[[], float]) -> None:
        """Return once `word` is set or no time is left, and no probe has failed once; else raises.

        left_s: seconds; asked again and again
        """
        due = [time.monotonic() + p.interval_ms / 1000 for p in self._probes]
        while (left := left_s()) > 0:
            number = min(range(len(due)), key=due.__getitem__)
            if word.wait(max(0.0, min(left, due[number] - time.monotonic(), _LOOK_SECONDS))):
                return
            self._check_alive()
            if time.monotonic() >= due[number]:
                if wrong := self._one(self._probes[number]):
                    raise self._failed(wrong)
                due[number] = time.monotonic() + self._probes[number].interval_ms / 1000

    def _one(self, probe: Probe) -> str:
        self._check_alive()
        self.wrong = ask(probe, self._target)
        self._check_alive()
        return self.wrong

    def _failed(self, wrong: str) -> Failed:
        return Failed("probe", expected="a healthy answer", got=wrong, reason="probe")

    def _check_alive(self) -> None:
        if self._halt.is_set():
            raise Unavailable("node", expected="to run on", got="its own end", reason="stopping")
        if not self._target.is_alive():
            raise Died("app", expected="to run on", got="its end", reason="crash-loop")

    def _sleep_until(self, moment: float) -> None:
        """A dead app and a stopping node are seen at once, not at the next probe."""
        while (left := moment - time.monotonic()) > 0:
            if self._halt.wait(min(left, _LOOK_SECONDS)):
                break
            self._check_alive()
