"""Units of systemd that belong to an app, by the word of the node's owner in apps.d.

A release names them in probes. They are stopped before the app is, started anew after it, and
looked at: the same invocation, with the same main process and no restart, from the first good look
to the end of the soak.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from embrasure import limits
from embrasure.errors import Denied, Failed, NotFound
from embrasure.fs import Folder
from node.paths import Paths
from node.programs import find_program
from node.supervisor import Instance, Supervisor, Unit

_BOOTED = Path("/run/systemd/system")  # sd_booted(3)
_ASKED = ("LoadState", "ActiveState", "InvocationID", "MainPID", "NRestarts")
_WORD = re.compile(r"[a-z][a-z-]{0,31}")
_ID = re.compile(r"(?:[0-9a-f]{32})?")
_NUMBER = re.compile(r"[0-9]{1,10}")
_LOOK_SECONDS, _START_SECONDS = 10.0, 30.0


@dataclass(frozen=True, slots=True)
class AppUnit(Unit):
    """How a release is started, with the units of systemd that belong to it."""

    companions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """What systemd says of one unit. invocation: "" for one that was never started."""

    load: str
    active: str
    invocation: str
    pid: int
    restarts: int


@dataclass(slots=True)
class Companion:
    """One started unit. before: its invocation until then; first: as it was first seen well."""

    before: str
    first: Shown | None = None


def parse_shown(raw: bytes) -> Shown:
    """Return what `systemctl show` printed; raises Failed (`internal`)."""
    wrong = Failed("systemd", expected="the state of one unit", got="something else",
                   reason="internal")  # fmt: skip
    if len(raw) > limits.UNIT_STATE_BYTES or not raw.isascii():
        raise wrong
    lines = [line.partition("=") for line in raw.decode("ascii").splitlines()]
    found = {name: value for name, _, value in lines}
    if len(lines) != len(_ASKED) or found.keys() != set(_ASKED):
        raise wrong
    load, active, invocation, pid, restarts = (found[name] for name in _ASKED)
    if not (
        all(map(_WORD.fullmatch, (load, active)))
        and _ID.fullmatch(invocation)
        and all(map(_NUMBER.fullmatch, (pid, restarts)))
    ):
        raise wrong
    return Shown(load, active, invocation, int(pid), int(restarts))


def judge(companion: Companion, now: Shown) -> str:
    """Return what is wrong with a unit, empty when it is the one that was started, and well.

    One that systemd has started again is told once, and then is the one that must last.
    """
    first, companion.first = companion.first, None
    if now.load != "loaded":
        return now.load
    if now.active != "active":  # of Type=notify: not READY yet, or its watchdog has ended it
        return now.active
    if now.invocation in ("", companion.before):
        return "not started with the new release"
    companion.first = now
    return "" if first in (None, now) else "started again by systemd"


class Manager:
    """The service manager of this host, asked through systemctl."""

    def __init__(self, program: str) -> None:
        self._program = program

    def show(self, unit: str, *, seconds: float = _LOOK_SECONDS) -> Shown:
        """Return the state of the unit; raises Failed."""
        words = ["show", f"--property={','.join(_ASKED)}", "--", unit]
        return parse_shown(self._tell(words, seconds))

    def start(self, units: Sequence[str]) -> None:
        """Each unit is being started anew; raises Failed (`start`) for one that is not known.

        How often a unit failed before, in a release that is gone, does not count: systemd would
        start it no more (`StartLimitBurst=`), and there would be no way back.
        """
        with suppress(Failed):  # of what it has not loaded nothing is counted
            self._tell(["reset-failed", "--", *units], _START_SECONDS)
        self._tell(["restart", "--no-block", "--", *units], _START_SECONDS)

    def stop(self, units: Sequence[str]) -> None:
        """No unit runs; raises Failed (`start`) for one that survives."""
        self._tell(["stop", "--", *units], limits.UNIT_STOP_SECONDS)

    def _tell(self, words: Sequence[str], seconds: float) -> bytes:
        try:
            done = subprocess.run(  # noqa: S603  # a fixed program, names of the node's owner
                [self._program, "--no-ask-password", "--no-pager", *words], env={}, cwd="/",
                stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            got = "none"
        else:
            if done.returncode == 0:
                return done.stdout
            got = f"an end with {done.returncode}"
        raise Failed(
            f"systemctl {words[0]}", expected="an answer in time", got=got, reason="start",
            hint="journalctl --unit=UNIT says why",
        )  # fmt: skip


def find() -> Manager | None:
    """Return the service manager, None where systemd is not the first process."""
    program = find_program("systemctl")
    return None if program is None or not _BOOTED.is_dir() else Manager(program)


def check(units: Sequence[str]) -> None:
    """Return only when this host has each unit; raises Denied (`no-systemd`), Failed."""
    manager = find() if units else None
    for unit in units:
        load = "no systemd as the first process" if manager is None else manager.show(unit).load
        if load != "loaded":
            raise Denied(
                f"unit {unit}", expected="a unit of systemd on this node", got=load,
                hint="apps.d names it; systemctl cat shows what systemd has", reason="no-systemd",
            )  # fmt: skip


class Keeper(Supervisor):
    """A supervisor whose apps have units of systemd beside their processes."""

    def __init__(self, paths: Paths, *, stop_seconds: float = limits.STOP_SECONDS) -> None:
        super().__init__(paths, stop_seconds=stop_seconds)
        self._run = paths.run
        self._companions: dict[str, dict[str, Companion]] = {}

    def start(self, unit: Unit) -> Instance:
        """Return the new instance, its units being started; raises Failed (`start`)."""
        instance = super().start(unit)
        names = unit.companions if isinstance(unit, AppUnit) else ()
        self._companions[unit.app] = {}
        if names:
            manager = _manager()
            # Whatever dies from here on: the next stop of the app finds them.
            with Folder.open(self._run) as folder:
                folder.replace(_file(unit.app), "\n".join(names).encode("ascii"))
            for name in names:
                before = manager.show(name).invocation
                self._companions[unit.app][name] = Companion(before)
            manager.start(names)
        return instance

    def stop(self, app: str) -> None:
        """No process of the app lives, and none of its units; raises Failed (`start`)."""
        with Folder.open(self._run) as folder:
            try:
                names = folder.read(_file(app), limit=limits.UNIT_STATE_BYTES).decode("ascii")
            except NotFound:
                names = ""
            try:
                if names:
                    _manager().stop(names.split())
                    folder.unlink(_file(app))
            finally:
                super().stop(app)

    def companion(self, app: str, unit: str, seconds: float) -> str:
        """Return what is wrong with a unit of the app, empty when it is well."""
        held = self._companions.get(app, {}).get(unit)
        if held is None:
            return f"unit {unit}: not started with the app"
        try:
            wrong = judge(held, _manager().show(unit, seconds=seconds))
        except Failed as problem:
            wrong = f"{problem.thing}: {problem.got}"
        return wrong and f"unit {unit}: {wrong}"


def _file(app: str) -> str:
    return f"{app}.units"


def _manager() -> Manager:
    found = find()
    if found is None:
        raise Failed(
            "app",
            expected="systemd as the first process",
            got="none",
            reason="start",
            hint="units of systemd can belong to an app only where systemd runs",
        )
    return found
