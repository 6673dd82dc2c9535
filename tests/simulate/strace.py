"""SIGKILL at one system call of the real program: `embrasure node apply` under strace.

The kernel kills the process on its way into the call, whatever code of ours or of a library made
it; then the real `embrasure node boot` has to bring the node to rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from embrasure.trust.floors import Floors, FloorStore
from node.journal import Journal
from node.paths import Paths
from node.states import RESTING
from tests.simulate.forks import Forks
from tests.simulate.installer import SimInstaller, Told, free_port, patient
from tests.simulate.promises import (
    check_end,
    check_floors,
    check_link,
    check_rest,
    check_told,
)
from tests.simulate.running import answers, until

WAYS = ("first", "upgrade", "rollback")
# Every call by which the program can change a file, a name, or another process.
CALLS = (
    "mkdir", "mkdirat", "openat", "openat2", "write", "pwrite64", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "fchmod",
    "fchmodat", "chmod", "fsync", "fdatasync", "syncfs", "fallocate", "ftruncate", "utimensat",
    "fchown", "fchownat", "copy_file_range", "ioctl", "kill", "pidfd_send_signal",
)  # fmt: skip
# Of some only those that change something; the others are traced, for the numbers to be right.
_WHEN = {
    "openat": ("O_CREAT", "O_TRUNC"), "openat2": ("O_CREAT", "O_TRUNC"), "ioctl": ("FICLONE",),
}  # fmt: skip
_LINE = re.compile(r"^([a-z0-9_]+)\((.*)")


@dataclass(frozen=True)
class Point:
    """The call `call`, for the `number`-th time, of one way."""

    way: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.way}: SIGKILL at {self.call} {self.number}"


@dataclass
class Way:
    """A node just before something that goes one way, and a stick that brings it."""

    bench: SimInstaller
    base: Path
    stick: Path
    floors: Floors
    approved: set[str]
    versions: tuple[str, ...]
    end: str


@dataclass
class Strace:
    """Every way, and the points of each."""

    root: Path
    ways: dict[str, Way] = field(default_factory=dict)

    def prepare(self, names: Sequence[str] = WAYS) -> None:
        """Each way has a node."""
        for name in names:
            self.ways[name] = self._prepare(name)

    def _prepare(self, name: str) -> Way:
        folder = self.root / name
        bench, approved = SimInstaller(folder, stop_seconds=0.5), set[str]()
        if name != "first":
            approved.add(bench.publish("1.0", release=patient(bench, "1.0")).manifest.sha256)
            assert bench.poll() == "committed"
        new = bench.make("2.0", "bad") if name == "rollback" else patient(bench, "2.0")
        approved.add(bench.publish("2.0", release=new).manifest.sha256)
        bench.close()
        bench.repo.write(folder / "stick")
        floors = FloorStore(bench.paths.floors).load()
        old = "" if name == "first" else "1.0"
        end = "1.0" if name == "rollback" else "2.0"
        base = bench.paths.prefix
        return Way(bench, base, folder / "stick", floors, approved, (old, "2.0"), end)

    def points(self, name: str) -> list[Point]:
        """Return every mutating call of the main thread, in order, as one run made them.

        Not what is ours: the file for what the program says. Behind the probes, which read /proc a
        varying number of times, the number of an `openat` is another one in another run: there the
        kill is at some open of about that moment.
        """
        log = self.root / "calls.log"
        with self._copy(self.ways[name], self.root / "dry") as paths, Forks() as forks:
            self._learn(forks)
            options = ["-o", str(log), "-e", f"trace={','.join(CALLS)}"]
            status = self._apply(forks, paths, self.ways[name], options)
            assert os.WIFEXITED(status), status
        found, numbers = [], Counter[str]()
        for line in log.read_text().splitlines():
            parsed = _LINE.match(line)
            if parsed is None:
                continue
            call, rest = parsed.groups()
            numbers[call] += 1
            if ".said" not in rest and any(word in rest for word in _WHEN.get(call, ("",))):
                found.append(Point(name, call, numbers[call]))
        return found

    def _learn(self, forks: Forks) -> None:
        """What `node apply` and `node boot` load is loaded."""
        way = next(iter(self.ways.values()))
        with self._copy(way, self.root / f"learn-{os.getpid()}") as paths:
            forks.learn(["node", "apply", "--root", str(paths.prefix), str(way.stick)])
            forks.learn(["node", "boot", "--root", str(paths.prefix)])

    def _apply(self, forks: Forks, paths: Paths, way: Way, options: Sequence[str]) -> int:
        """Return how `node apply` under strace ended, as `os.waitpid` says it."""
        said = paths.prefix.with_suffix(".said")
        pid = forks.start(
            ["node", "apply", "--root", str(paths.prefix), str(way.stick)], said, gated=True
        )
        # Only its main thread is traced: the app that it starts is not to be killed, nor counted.
        # Not with --seccomp-bpf: strace 6.1 then does not count.
        strace = subprocess.Popen(
            ["strace", "-p", str(pid), *options], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: _traced(pid), seconds=20, what="strace")
            forks.go(pid)
            return forks.wait(pid)
        finally:
            strace.wait(20)
            said.unlink()

    @contextlib.contextmanager
    def _copy(self, way: Way, where: Path) -> Iterator[Paths]:
        """Yield a copy of the way's node, gone at the end."""
        shutil.copytree(way.base, where, symlinks=True)
        try:
            yield Paths(where)
        finally:
            shutil.rmtree(where)

    def check(self, forks: Forks, point: Point, where: Path, port: int) -> bool:
        """Return whether the node was killed; every promise holds.

        Raises AssertionError.
        """
        way = self.ways[point.way]
        bench = way.bench
        with self._copy(way, where) as paths:
            bench.paths, bench.port, bench.report = paths, port, Told()
            bench.clock.ahead = timedelta()
            bench.allow(bench.app, port)
            inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
            log = ["-o", os.devnull, "-e", f"trace={point.call}", "-e", inject]
            status = self._apply(forks, paths, way, log)
            check_link(paths, bench.app, way.approved)
            self._boot(forks, paths, way, port)
            bench.open()
            try:
                check_rest(bench, way.versions)
                check_floors(way.floors, FloorStore(paths.floors).load(repair=False))
                check_end(bench, good=point.way != "rollback", version=way.end)
                check_told(paths, bytes(bench.identity.receipt_key.verify_key), [])
            finally:
                bench.close()
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def _boot(self, forks: Forks, paths: Paths, way: Way, port: int) -> None:
        """The real program brings the node to rest, and what is linked answers."""
        said, command = paths.prefix.with_suffix(".said"), ["node", "boot", "--root"]
        if "" in way.versions and not paths.current("shop").is_symlink():
            pid = forks.start([*command, str(paths.prefix)], said)
        else:
            pid = forks.start([*command, str(paths.prefix), "--foreground"], said)
            try:
                # A stop before it rests would count as one more start that did not go well.
                good = [version for version in way.versions if version]
                until(lambda: at_rest(paths, way.bench.app) and answers(port) in good,
                      seconds=40, what="rest and an answer after boot")  # fmt: skip
            finally:
                os.kill(pid, signal.SIGTERM)
        assert forks.wait(pid, seconds=20) == 0, said.read_text()
        said.unlink()

    def sweep(
        self, points: Sequence[Point], *, workers: int = 2,
        done: Callable[[Point, str], None] = lambda point, wrong: None,
    ) -> tuple[int, list[str]]:  # fmt: skip
        """Return how many of the points killed the node, and what is wrong with each broken one.

        done: told of each point as soon as it is done, "" when nothing is wrong
        """
        pipes = {}
        for worker in range(workers):
            read_end, write_end = os.pipe()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    os.close(read_end)
                    self._work(points, range(worker, len(points), workers), write_end)
                os._exit(0)
            os.close(write_end)
            pipes[read_end] = os.fdopen(read_end), child
        found: list[tuple[bool, str]] = []
        while pipes:
            for ready in select.select([*pipes], [], [])[0]:
                file, child = pipes[ready]
                line = file.readline()
                if not line:
                    pipes.pop(ready)[0].close()
                    os.waitpid(child, 0)
                    continue
                number, killed, said = json.loads(line)
                found.append((killed, said))
                done(points[number], said)
        assert len(found) == len(points), "a worker died"
        return sum(killed for killed, _ in found), [said for _, said in found if said]

    def _work(self, points: Sequence[Point], mine: Iterable[int], pipe: int) -> None:
        port = free_port()
        with Forks() as forks:
            self._learn(forks)
            for number in mine:
                where = self.root / f"case-{number}"
                said = self._said(forks, points[number], where, port)
                os.write(pipe, (json.dumps([number, *said]) + "\n").encode())

    def _said(self, forks: Forks, point: Point, where: Path, port: int) -> tuple[bool, str]:
        try:
            return self.check(forks, point, where, port), ""
        except Exception as problem:
            trace = traceback.format_exc(limit=-2)
            return True, f"{point}: {type(problem).__name__} {problem}\n{trace}"[:3500]


def _traced(pid: int) -> bool:
    return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def at_rest(paths: Paths, app: str) -> bool:
    """Return whether no install of the app is open."""
    record = Journal(paths).read(app).record
    return record is not None and record.state in RESTING
