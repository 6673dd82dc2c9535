"""Starts, watches, stops and restarts apps: a small init, in one thread that never ends.

The thread starts all apps, because the kernel ties a child's life to the thread that made it, and
because in production it alone keeps what a network needs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed, NotFound
from embrasure.fs import Folder
from node import credentials, processes
from node.output import Output
from node.paths import Paths
from node.probing import Prober
from node.users import User

T = TypeVar("T")
_SWEEP_SECONDS = 1.0  # between looks for orphans that ended
_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)


@dataclass(frozen=True, slots=True)
class Unit:
    """How one release of an app is started. argv[0] and cwd are absolute; user: None for ours."""

    app: str
    release: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    user: User | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """One start of a unit; a restart is another instance. since: Unix time."""

    unit: Unit
    pid: int
    token: str
    since: float = 0.0


@dataclass(slots=True)
class _Child:
    """A started unit as the thread sees it."""

    instance: Instance
    process: subprocess.Popen[bytes]
    output: Output
    since: float
    is_kept: bool = False
    ended: int | None = None
    restarts: int = 0
    again_at: float | None = None


class Supervisor:
    """Owns the processes of every app of one node."""

    def __init__(self, paths: Paths, *, stop_seconds: float = limits.STOP_SECONDS) -> None:
        self._paths = paths
        self._stop_seconds = stop_seconds
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._children: dict[str, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._is_closing = False
        self._swept = time.monotonic()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        processes.adopt_orphans()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    # What others ask for, from any thread

    def start(self, unit: Unit) -> Instance:
        """Return the new instance of `unit`; raises Failed (`start`) when it cannot be started.

        Nothing of the app runs any more: the caller has stopped it. It is not restarted until
        `keep` says so.
        """
        return self._ask(lambda: self._start(unit))

    def keep(self, app: str) -> None:
        """From now on the app is started again when it ends."""
        self._ask(lambda: self._keep(app))

    def running(self, app: str) -> Instance | None:
        """Return the instance that lives now, as far as the thread has heard of an end."""
        child = self._children.get(app)  # only looked at, so the thread is not asked
        return child.instance if child is not None and child.ended is None else None

    def exit_of(self, instance: Instance) -> int | None:
        """Return how the instance ended, None while it lives (or another one has replaced it)."""
        return self._ask(lambda: self._exit_of(instance))

    def members(self, instance: Instance) -> frozenset[int]:
        """Return the living processes of the instance."""
        return processes.members(instance.pid, instance.token, instance.unit.user)

    def prober(self, user: User | None, *, grpc: bool = False) -> Prober:
        """Return a process that asks for this one, as `user`: only its thread has the network."""
        return self._ask(lambda: Prober(user, grpc=grpc))

    def tail(self, app: str, length: int) -> bytes:
        """Return the last `length` bytes that the app printed."""
        return self._ask(lambda: self._tail(app, length))

    def stop(self, app: str) -> None:
        """No process of the app lives, and no secret of it lies open: SIGTERM to all, after
        `stop_seconds` SIGKILL.

        Raises Failed (`start`) for a process that survives even that.
        """
        child = self._ask(lambda: self._unkeep(app))
        if child is not None:
            instance, user = child.instance, child.instance.unit.user
            processes.end(
                lambda: processes.members(instance.pid, instance.token, user), user,
                seconds=self._stop_seconds,
            )  # fmt: skip
            self._ask(lambda: self._forget(app))
        self.clear_leftovers(app)
        credentials.take_away(self._paths, app)

    def stop_all(self) -> None:
        """No process of any app lives. What goes wrong with one is raised after all have ended."""
        with ExitStack() as every:
            for app in self._ask(lambda: sorted(self._children)):
                every.callback(self.stop, app)

    def close(self) -> None:
        """Every app is stopped and the thread has ended; raises what `stop_all` raises."""
        if self._thread.is_alive():
            try:
                self.stop_all()
            finally:
                self._ask(self._set_closing)
                self._thread.join()
                os.close(self._wake_read)
                os.close(self._wake_write)

    def clear_leftovers(self, app: str) -> None:
        """What an earlier, killed node left running of this app is gone.

        Its workers survive it, hold the port, and would answer in the new release's place.
        """
        with Folder.open(self._paths.run) as folder:
            try:
                said = folder.read(f"{app}.instance", limit=64).decode("ascii", "replace").split()
            except NotFound:
                return
            if len(said) == 3 and said[1].isdigit() and said[2].isdigit():
                processes.end_all_of(User(int(said[1]), int(said[2])), self._stop_seconds)
            elif said and processes.leftovers(said[0]):
                found = partial(processes.leftovers, said[0])
                processes.end(found, None, seconds=self._stop_seconds)
            folder.unlink(f"{app}.instance", missing_ok=True)

    def clear_users(self, users: Iterable[User]) -> None:
        """Nothing runs as one of the apps' users: no app, hook or prober of a killed node.

        Its end is not theirs: without CAP_KILL the kernel may not tell another user's children.
        """
        with Folder.open(self._paths.run) as folder:
            held = [name.removesuffix(".instance") for name in folder.list()
                    if name.endswith(".instance")]  # fmt: skip
        for user in users:
            with contextlib.suppress(EmbrasureError):  # said again when that app is started
                processes.end_all_of(user, self._stop_seconds)
        for app in held:  # whom the apps ran as before the owner gave them other users
            with contextlib.suppress(EmbrasureError):
                self.clear_leftovers(app)

    # The thread

    def _ask(self, job: Callable[[], T]) -> T:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as problem:  # handed to the one who asked
                future.set_exception(problem)

        self._jobs.put(run)
        os.write(self._wake_write, b"!")
        return future.result()

    def _loop(self) -> None:
        while not self._is_closing:
            # Whatever goes wrong with one app, the thread that keeps every app alive never ends.
            with contextlib.suppress(Exception):
                self._turn()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            self._heard(key.fileobj, key.data)
        self._restart_due()
        if time.monotonic() - self._swept > _SWEEP_SECONDS:
            self._swept = time.monotonic()
            processes.reap_orphans()

    def _patience(self) -> float:
        due = [c.again_at for c in self._children.values() if c.again_at is not None]
        return max(0.0, min([_SWEEP_SECONDS, *(at - time.monotonic() for at in due)]))

    def _heard(self, source: object, child: _Child | None) -> None:
        if child is None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            with contextlib.suppress(queue.Empty):
                while True:
                    self._jobs.get_nowait()()
        elif source is child.output:
            if not child.output.take():
                self._selector.unregister(child.output)
                child.output.close()
        elif isinstance(source, int):
            self._ended(child, source)

    def _start(self, unit: Unit, restarts: int = 0) -> Instance:
        held = self._children.get(unit.app)
        if held is not None and held.ended is None:
            raise Failed(unit.app, expected="nothing that runs", got="a living app", reason="start")
        token = secrets.token_hex(16)
        with Folder.open(self._paths.run) as folder:
            who = "" if unit.user is None else f" {unit.user.uid} {unit.user.gid}"
            folder.replace(f"{unit.app}.instance", f"{token}{who}".encode("ascii"))
        read_end, write_end = os.pipe()
        try:
            process = processes.spawn(
                unit.argv, env=unit.env, cwd=unit.cwd, output=write_end, token=token,
                user=unit.user,
            )  # fmt: skip
        except OSError as problem:
            os.close(read_end)
            raise Failed(
                unit.app, expected="to start", got=problem.strerror, reason="start"
            ) from problem
        finally:
            os.close(write_end)
        output = Output(read_end, self._paths.logs / f"{unit.app}.log")
        instance = Instance(unit, process.pid, token, time.time())
        child = _Child(instance, process, output, time.monotonic())
        child.restarts = restarts
        self._children[unit.app] = child
        self._selector.register(output, selectors.EVENT_READ, child)
        self._selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, child)
        return child.instance

    def _ended(self, child: _Child, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        child.ended = processes.ended(child.process)
        self._plan_restart(child)

    def _plan_restart(self, child: _Child) -> None:
        if child.is_kept and child.ended is not None and child.again_at is None:
            if time.monotonic() - child.since > limits.RESTART_STEADY_SECONDS:
                child.restarts = 0
            wait = _BACKOFF_SECONDS[min(child.restarts, len(_BACKOFF_SECONDS) - 1)]
            child.again_at = time.monotonic() + wait

    def _restart_due(self) -> None:
        for child in list(self._children.values()):
            if child.again_at is not None and time.monotonic() >= child.again_at:
                self._restart(child)

    def _restart(self, child: _Child) -> None:
        """A kept app that ended runs again; what its old start left behind goes first."""
        child.again_at = None
        processes.send(self.members(child.instance), signal.SIGKILL, child.instance.unit.user)
        try:
            self._start(child.instance.unit, child.restarts + 1)
            self._children[child.instance.unit.app].is_kept = True
        except EmbrasureError:
            child.restarts += 1
            self._plan_restart(child)

    def _keep(self, app: str) -> None:
        if (child := self._children.get(app)) is not None:
            child.is_kept = True
            self._plan_restart(child)

    def _unkeep(self, app: str) -> _Child | None:
        child = self._children.get(app)
        if child is not None:
            child.is_kept, child.again_at = False, None
        return child

    def _forget(self, app: str) -> None:
        self._children.pop(app, None)

    def _exit_of(self, instance: Instance) -> int | None:
        child = self._children.get(instance.unit.app)
        return child.ended if child is not None and child.instance == instance else None

    def _tail(self, app: str, length: int) -> bytes:
        child = self._children.get(app)
        return child.output.tail(length) if child is not None else b""

    def _set_closing(self) -> None:
        self._is_closing = True
