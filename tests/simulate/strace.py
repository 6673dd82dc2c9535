"""SIGKILL at one system call of the real program: `embrasure node apply` under strace.

The kernel kills the process on its way into the call, whatever code of ours or of a library made
it; then the real `embrasure node boot` has to bring the node to rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from embrasure.trust.floors import Floors, FloorStore
from node.journal import Journal
from node.paths import Paths
from node.states import RESTING
from tests.simulate.installer import SimInstaller, Told, free_port, patient
from tests.simulate.promises import (
    check_end,
    check_floors,
    check_link,
    check_rest,
    check_told,
)
from tests.simulate.running import PROGRAM, answers, embrasure, until

WAYS = ("first", "upgrade", "rollback")
WORKERS = 2
# Every call by which the program can change a file, a name, or another process.
CALLS = (
    "mkdir", "mkdirat", "openat2", "write", "pwrite64", "rename", "renameat", "renameat2", "link",
    "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "fchmod", "fchmodat", "chmod",
    "fsync", "fdatasync", "syncfs", "fallocate", "ftruncate", "utimensat", "fchown", "fchownat",
    "copy_file_range", "kill", "pidfd_send_signal",
)  # fmt: skip
_LINE = re.compile(r"^(\d+) +([a-z0-9_]+)\((.*)")


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
        """Return every mutating call of the main thread, in order, as one run made them."""
        with self._copy(self.ways[name], self.root / "dry") as paths:
            log = self.root / "calls.log"
            options = ["-o", str(log), "-e", f"trace={','.join(CALLS)}"]
            self._apply(paths, self.ways[name], options)
        found, numbers, main = [], Counter[str](), ""
        for line in log.read_text().splitlines():
            parsed = _LINE.match(line)
            if parsed is None:
                continue
            pid, call, rest = parsed.groups()
            main = main or pid
            if pid != main:
                continue
            numbers[call] += 1
            if call != "openat2" or "O_CREAT" in rest:
                found.append(Point(name, call, numbers[call]))
        return found

    def _apply(self, paths: Paths, way: Way, options: Sequence[str]) -> int:
        """Return how `node apply` under strace ended, as a shell says it."""
        # Not with --seccomp-bpf: strace 6.1 then does not count.
        command = ["strace", "-f", *options, *PROGRAM, "node", "apply", "--root",
                   str(paths.prefix), str(way.stick)]  # fmt: skip
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    @contextlib.contextmanager
    def _copy(self, way: Way, where: Path) -> Iterator[Paths]:
        """Yield a copy of the way's node, gone at the end."""
        shutil.copytree(way.base, where, symlinks=True)
        try:
            yield Paths(where)
        finally:
            shutil.rmtree(where)

    def check(self, point: Point, where: Path, port: int) -> bool:
        """Return whether the node was killed (not only an app of it); every promise holds.

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
            killed = self._apply(paths, way, log) in (-signal.SIGKILL, 128 + signal.SIGKILL)
            check_link(paths, bench.app, way.approved)
            self._boot(paths, way, port)
            bench.open()
            try:
                check_rest(bench, way.versions)
                check_floors(way.floors, FloorStore(paths.floors).load(repair=False))
                check_end(bench, good=point.way != "rollback", version=way.end)
                check_told(paths, bytes(bench.identity.receipt_key.verify_key), [])
            finally:
                bench.close()
        return killed

    def _boot(self, paths: Paths, way: Way, port: int) -> None:
        """The real program brings the node to rest, and what is linked answers."""
        if "" in way.versions and not paths.current("shop").is_symlink():
            done = embrasure("node", "boot", "--root", paths.prefix)
            assert done.returncode == 0, done.stderr
            return
        boot = subprocess.Popen(
            [*PROGRAM, "node", "boot", "--root", str(paths.prefix), "--foreground"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            # A stop before it rests would count as one more start that did not go well.
            good = [version for version in way.versions if version]
            until(lambda: at_rest(paths, way.bench.app) and answers(port) in good,
                  seconds=40, what="rest and an answer after boot")  # fmt: skip
        finally:
            boot.terminate()
            _, said = boot.communicate(timeout=20)
        assert boot.returncode == 0, said.decode()

    def sweep(self, points: Sequence[Point]) -> tuple[int, list[str]]:
        """Return how many of the points killed the node, and what is wrong with each broken one."""
        pipes = []
        for worker in range(WORKERS):
            read_end, write_end = os.pipe()
            port = free_port()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    os.close(read_end)
                    for number, point in enumerate(points[worker::WORKERS]):
                        said = self._said(point, self.root / f"case-{worker}-{number}", port)
                        os.write(write_end, (json.dumps(said) + "\n").encode())
                os._exit(0)
            os.close(write_end)
            pipes.append((child, read_end))
        found: list[tuple[bool, str]] = []
        for child, read_end in pipes:
            with os.fdopen(read_end) as file:
                found += [tuple(json.loads(line)) for line in file]
            os.waitpid(child, 0)
        assert len(found) == len(points), "a worker died"
        return sum(killed for killed, _ in found), [said for _, said in found if said]

    def _said(self, point: Point, where: Path, port: int) -> tuple[bool, str]:
        try:
            return self.check(point, where, port), ""
        except Exception as problem:
            trace = traceback.format_exc(limit=-2)
            return True, f"{point}: {type(problem).__name__} {problem}\n{trace}"[:4000]


def at_rest(paths: Paths, app: str) -> bool:
    """Return whether no install of the app is open."""
    record = Journal(paths).read(app).record
    return record is not None and record.state in RESTING
