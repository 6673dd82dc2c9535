"""Apps that are no processes: each is a listening socket of the node's own process.

For sweeps of thousands of cases, where starting programs would cost more than all else. Files,
states, probes (real TCP, real owner of the socket) and the end by SIGKILL are real; a killed node's
apps are gone with it, as its children are. `tests/integration/test_node_kill.py` has the same with
real programs.

A release whose `config/mode` says `crash` ends as soon as it is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket

from node import credentials
from node.paths import Paths
from node.probing import Prober
from node.supervisor import Instance, Unit
from node.users import User


class InnerApps:
    """The apps of one node."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._running: dict[str, tuple[Instance, socket.socket]] = {}
        self.starts = 0

    def start(self, unit: Unit) -> Instance:
        """Return the new instance; it listens on its port before this returns."""
        assert unit.app not in self._running, "two releases at once"
        instance = Instance(unit, os.getpid(), secrets.token_hex(16))
        self.starts += 1
        if (unit.cwd / "config" / "mode").read_text().strip() != "crash":
            port = int(unit.env["EMBRASURE_PORT_WEB"])
            self._running[unit.app] = instance, socket.create_server(("127.0.0.1", port))
        return instance

    def keep(self, app: str) -> None:
        """It never ends by itself."""

    def running(self, app: str) -> Instance | None:
        """Return the instance that lives now."""
        found = self._running.get(app)
        return None if found is None else found[0]

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
        with contextlib.suppress(KeyError):
            self._running.pop(app)[1].close()
        credentials.take_away(self._paths, app)

    def stop_all(self) -> None:
        """No app lives."""
        for app in list(self._running):
            self.stop(app)

    def close(self) -> None:
        """As `stop_all`."""
        self.stop_all()
