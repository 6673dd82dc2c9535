"""When an app counts as well: each of its probes passes often enough, in time, and keeps passing.

What is asked, and the proof that the new release answered, is `node/prober.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from embrasure.bundle.manifest import (
    ExecProbe,
    FileAgeProbe,
    GrpcProbe,
    HttpProbe,
    Probe,
    SystemdProbe,
    TcpProbe,
)
from embrasure.errors import Failed, Unavailable
from node import commands, prober

_STARTING_SECONDS = 0.2
_LOOK_SECONDS = 0.1  # until a dead app or a stopping node is seen
NetworkProbe = HttpProbe | TcpProbe | GrpcProbe | FileAgeProbe


Run = Callable[[Sequence[str], Mapping[str, str], Path, float], commands.Finished]


def run_bare(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float
) -> commands.Finished:
    """Return how the command ended, which ran as the node itself."""
    return commands.run(command, env=env, cwd=cwd, seconds=seconds)


def no_unit(name: str, seconds: float) -> str:
    """Return that there is none."""
    return f"unit {name}: no systemd here"


def nothing() -> None:
    """Nothing has to be tidied up."""


@dataclass(frozen=True, slots=True)
class Target:
    """The instance that must answer.

    ports: number by name; release: first 16 digits of its manifest's digest; members: its living
    processes now; argv: absolute argument list of a declared command; run: runs it; check: asks
    what has a port or a file; done: whoever was asked is not needed any more; unit: asks
    systemd, in so many seconds, of a unit by its name; shared: the app's data; since: Unix time of
    its start.
    """

    ports: Mapping[str, int]
    release: str
    env: Mapping[str, str]
    cwd: Path
    members: Callable[[], frozenset[int]]
    is_alive: Callable[[], bool]
    argv: Callable[[Sequence[str]], list[str]]
    run: Run = run_bare
    check: Callable[[Mapping[str, object]], str] = prober.check
    done: Callable[[], None] = nothing
    unit: Callable[[str, float], str] = no_unit
    shared: Path = Path("/nowhere")
    since: float = 0.0


class Died(Failed):
    """The app ended while it was being probed."""

    default_reason = "crash-loop"


def ask(probe: Probe, target: Target) -> str:
    """Return what is wrong, empty when the probe passes."""
    if isinstance(probe, ExecProbe):
        return _ask_command(probe, target)
    if isinstance(probe, SystemdProbe):
        return target.unit(probe.unit, probe.timeout_ms / 1000)
    return target.check(question(probe, target))


def question(probe: NetworkProbe, target: Target) -> dict[str, object]:
    """Return the probe as the prober is asked it."""
    asked: dict[str, object] = {
        "seconds": probe.timeout_ms / 1000,
        "release": target.release,
        "members": sorted(target.members()),
    }
    if isinstance(probe, FileAgeProbe):
        path = f"{target.shared}/{probe.path}"
        return asked | {
            "kind": "file-age", "path": path, "since": target.since, "seconds_old": probe.max_age_s,
        }  # fmt: skip
    asked |= {"name": probe.port, "port": target.ports[probe.port]}
    if isinstance(probe, HttpProbe):
        return asked | {"kind": "http", "path": probe.path, "status": probe.status}
    if isinstance(probe, GrpcProbe):
        return asked | {"kind": "grpc", "service": probe.service}
    return asked | {"kind": "tcp"}


def _ask_command(probe: ExecProbe, target: Target) -> str:
    command, seconds = target.argv(probe.argv), probe.timeout_ms / 1000
    ended = target.run(command, target.env, target.cwd, seconds)
    if ended.is_good:
        return ""
    return "command: no end in time" if ended.code is None else f"command: ended with {ended.code}"


class Watch:
    """All probes of one release, each at its own interval."""

    def __init__(
        self,
        probes: Sequence[Probe],
        target: Target,
        *,
        halt: threading.Event,
        in_time: Callable[[], None] = nothing,
    ) -> None:
        """in_time: raises once the time of all of it is over."""
        self._probes = tuple(probes)
        self._target = target
        self._halt = halt
        self._in_time = in_time
        self.wrong = ""

    def until_well(self) -> None:
        """Return when every probe has passed its number of times in a row.

        Raises Failed (`probe`) when one has not within its start time, Died, and Unavailable
        (`stopping`) when this node is being stopped.
        """
        try:
            self._until_well()
        finally:
            self._target.done()

    def _until_well(self) -> None:
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
        try:
            self._through(seconds)
        finally:
            self._target.done()

    def _through(self, seconds: float) -> None:
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
        self._in_time()

    def _sleep_until(self, moment: float) -> None:
        """A dead app and a stopping node are seen at once, not at the next probe."""
        while (left := moment - time.monotonic()) > 0:
            if self._halt.wait(min(left, _LOOK_SECONDS)):
                break
            self._check_alive()
