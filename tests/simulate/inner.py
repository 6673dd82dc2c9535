"""Apps that are no processes: each is a file that the node's own process has just written.

For sweeps of thousands of cases, where starting programs would cost more than all else. Files,
states, probes (of a file's age) and the end by SIGKILL are real; a killed node's apps are gone with
it, as its children are. `tests/integration/test_node_kill.py` has the same with real programs.

A release whose `config/mode` says `crash` ends as soon as it is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time

from node import credentials
from node.paths import Paths
from node.probing import Prober
from node.supervisor import Instance, Unit
from node.users import User

ALIVE = "alive"


class InnerApps:
    """The apps of one node."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._running: dict[str, Instance] = {}
        self.starts = 0

    def start(self, unit: Unit) -> Instance:
        """Return the new instance; it gave its sign of life before this returns."""
        assert unit.app not in self._running, "two releases at once"
        instance = Instance(unit, os.getpid(), secrets.token_hex(16))
        self.starts += 1
        if (unit.cwd / "config" / "mode").read_text().strip() != "crash":
            self._running[unit.app] = instance
            alive = self._paths.shared(unit.app) / ALIVE
            with contextlib.suppress(OSError):  # an app that may write nothing lives all the same
                alive.touch()
                at = time.time_ns()  # the file system's own clock lags by some milliseconds
                os.utime(alive, ns=(at, at))
        return instance

    def keep(self, app: str) -> None:
        """It never ends by itself."""

    def running(self, app: str) -> Instance | None:
        """Return the instance that lives now."""
        return self._running.get(app)

    def companion(self, app: str, unit: str, seconds: float) -> str:
        """None of them has one."""
        return f"unit {unit}: none here"

    def members(self, instance: Instance) -> frozenset[int]:
        """Return this process."""
        return frozenset({instance.pid})

    def prober(self, user: User | None, *, grpc: bool = False) -> Prober:
        """Return a real one, as an app with a gRPC probe has it."""
        return Prober(user, grpc=grpc)

    def tail(self, app: str, length: int) -> bytes:
        """Return nothing: it prints nothing."""
        return b""

    def stop(self, app: str) -> None:
        """Nothing of the app lives, and no secret of it lies open."""
        self._running.pop(app, None)
        credentials.take_away(self._paths, app)

    def stop_all(self) -> None:
        """No app lives."""
        for app in list(self._running):
            self.stop(app)

    def close(self) -> None:
        """As `stop_all`."""
        self.stop_all()
