"""`embrasure node run`: starts apply and fetch, starts them again when they end, stops both.

Two processes, because the one that meets the network must not be the one that installs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from logging import getLogger

from embrasure.errors import Denied, EmbrasureError, Misuse, NotFound
from embrasure.fs import Folder, lock
from node import bare, service
from node.isolation import demanded
from node.paths import Paths
from node.serving import stand

LOG = getLogger(__name__)
LOCK = "run.lock"
PROCESSES = {"apply": "node.apply_main", "fetch": "node.agent"}
_STEP_SECONDS = 0.1
_STEADY_SECONDS = 30.0  # alive this long: the next start is at once again
_LONGEST_WAIT_SECONDS = 30.0
_STOP_SECONDS = 15.0  # apply stops its apps in that time
# What no new start of apply can heal: configuration, permissions. Fetch is always started again:
# without it nothing new arrives, and that must not stop what runs.
_FINAL = {"apply": frozenset({Misuse.exit_code, Denied.exit_code}), "fetch": frozenset[int]()}


class Child:
    """One process of the node, started as often as it ends."""

    def __init__(self, name: str, paths: Paths) -> None:
        self._name, self._paths = name, paths
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at = 0.0
        self._since = 0.0
        self._failures = 0

    def look(self) -> None:
        """The process lives, or will be started when its time comes.

        Raises Misuse or Denied when it ended with an error that no new start heals.
        """
        now = time.monotonic()
        if self._process is None:
            if now >= self._again_at:
                self._start(now)
            return
        code = self._process.poll()
        if code is None:
            return
        self._process = None
        if code in _FINAL[self._name]:
            raise ended(self._name, code)
        self._failures = 0 if now - self._since > _STEADY_SECONDS else self._failures + 1
        wait = min(_LONGEST_WAIT_SECONDS, 0.1 * 2.0 ** min(self._failures, 9))
        LOG.warning("%s ended with %d; again in %.1f s", self._name, code, wait)
        self._again_at = now + wait

    def _start(self, now: float) -> None:
        # -I: neither the environment nor a folder named `node` can put other code in place of ours.
        command = [sys.executable, "-I", "-m", PROCESSES[self._name]]
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [*command, str(self._paths.prefix.resolve()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
        )
        self._since = now

    def ask_to_stop(self) -> None:
        """The process has SIGTERM."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, until: float) -> None:
        """The process is gone, killed if it still lives at `until` (monotonic)."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            LOG.warning("%s does not stop; killed", self._name)
            self._process.kill()
            self._process.wait()


def ended(name: str, code: int) -> EmbrasureError:
    """Return the error of a process that no new start would heal."""
    kind = Misuse if code == Misuse.exit_code else Denied
    return kind(
        f"node process {name}",
        expected="to run",
        got=f"exit code {code}",
        hint="its own lines stand above",
        reason="ended",
    )


def keep_running(children: Sequence[Child], stop: threading.Event) -> None:
    """Each of `children` runs until `stop` is set, then none does; raises what `look` raises."""
    try:
        while not stop.is_set():
            for child in children:
                child.look()
            stop.wait(_STEP_SECONDS)
    finally:
        for child in children:
            child.ask_to_stop()
        until = time.monotonic() + _STOP_SECONDS
        for child in children:
            child.end(until)


def run_only(paths: Paths, name: str) -> int:
    """Return the exit code of one process of the node, which ran here until SIGTERM.

    For a service manager with a unit for each; it starts them again.
    """
    bare.leave_out()
    # Each imports what only it needs.
    if name == "apply":
        from node import apply_main

        demanded(paths, stand(paths).config, tries=False)
        return apply_main.alone(paths, parent=None)
    from node import agent

    try:
        return agent.alone(paths, parent=None)
    finally:
        _not_ready(paths)


def run(paths: Paths, stop: threading.Event) -> None:
    """The node runs until `stop` is set; raises Unavailable (`busy`) when another one runs it."""
    demanded(paths, stand(paths).config)  # no node here, or none that may run: said at once
    with lock(paths.lock / LOCK, seconds=0.0, hint="this node runs already: embrasure node status"):
        _not_ready(paths)
        try:
            keep_running([Child(name, paths) for name in PROCESSES], stop)
        finally:
            _not_ready(paths)


def _not_ready(paths: Paths) -> None:
    """Nothing says that this node can be reached."""
    # A boot empties /run, and apply makes it.
    with suppress(Denied, NotFound), Folder.open(paths.net) as folder:
        folder.unlink(service.PORTS, missing_ok=True)
