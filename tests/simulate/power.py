"""Power cuts on a real file system: a node's disk, copied in the middle of what it does.

One run of an install gives a copy of the disk at every chosen write; each copy is then mounted, as
after a power cut, and the real recovery runs on it. The repository lies outside the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from embrasure.trust.floors import Floors, FloorStore
from node.paths import Paths
from tests.simulate.disk import copy_image, make_image, mounted
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told, free_port, patient
from tests.simulate.promises import (
    check_end,
    check_floors,
    check_link,
    check_rest,
    check_told,
    check_twice,
)

WAYS = ("first", "upgrade", "rollback", "again")
WORKERS = 2
# What is installed before; the fourth makes the first fall out, so that it is collected.
_BEFORE: Mapping[str, Sequence[str]] = {
    "first": [], "upgrade": ["1.0", "2.0", "3.0"], "rollback": ["1.0"],
}  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """One copy. at: before which write; told: the receipts that were handed out by then."""

    image: Path
    way: str
    at: int
    call: str
    told: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.way} cut before write {self.at} ({self.call})"


@dataclass
class Way:
    """A node on a disk just before something that goes one way."""

    name: str
    bench: SimInstaller
    base: Path
    floors: Floors
    approved: set[str]
    versions: tuple[str, ...]
    end: str
    writes: int = 0


@dataclass
class Rig:
    """Every way, each with its base disk. kind: of the file system."""

    root: Path
    kind: str = "ext4"
    ways: dict[str, Way] = field(default_factory=dict)

    def prepare(self) -> None:
        """Every way has its base disk and its number of writes."""
        for name in WAYS[:3]:
            self._prepare(name)
        for way in list(self.ways.values()):
            way.writes = self.run(way, lambda at: False)[1]
        # A power cut in the middle of recovery: the disk as a cut right after the switch left it.
        upgrade = self.ways["upgrade"]
        names = self.calls(upgrade)
        switched = max(at for at, call in enumerate(names) if call == "rename current") + 2
        cut = self.run(upgrade, lambda at: at == switched)[0][0]
        base = cut.image.rename(self.root / "again.img")
        again = Way("again", upgrade.bench, base, upgrade.floors, upgrade.approved,
                    upgrade.versions, upgrade.end)  # fmt: skip
        again.writes = self.run(again, lambda at: False)[1]
        self.ways["again"] = again

    def _prepare(self, name: str) -> None:
        base = make_image(self.root / f"{name}.img", self.kind)
        approved = set[str]()
        with mounted(base, self.root / "disk", self.kind):
            bench = SimInstaller(self.root / "disk")
            bench.stop_seconds = 0.5
            steps = _BEFORE[name]
            for version in steps:
                more = {f"code/lib/m{number}.py": os.urandom(5_000) for number in range(4)}
                self._publish(bench, version, "good", more, approved)
                assert bench.poll() == "committed"
            new = f"{len(steps) + 1}.0"
            more = {f"code/lib/m{number}.py": os.urandom(5_000) for number in range(8)}
            self._publish(bench, new, "bad" if name == "rollback" else "good", more, approved)
            bench.close()
            floors = FloorStore(bench.paths.floors).load()
        versions = (steps[-1] if steps else "", new)
        end = "1.0" if name == "rollback" else new
        self.ways[name] = Way(name, bench, base, floors, approved, versions, end)

    def _publish(
        self, bench: SimInstaller, version: str, mode: str, more: dict[str, bytes],
        approved: set[str],
    ) -> None:  # fmt: skip
        made = (
            bench.make(version, mode, files=more)
            if mode == "bad"
            else patient(bench, version, files=more)
        )
        plan = bench.publish(version, release=made)
        approved.add(plan.manifest.sha256)

    @contextmanager
    def on(self, way: Way, image: Path, where: Path) -> Iterator[SimInstaller]:
        """Yield the bench of the way on this disk, closed."""
        with mounted(image, where, self.kind):
            way.bench.paths = Paths(where / "node")
            way.bench.report = Told()
            way.bench.clock.ahead = timedelta()
            yield way.bench

    def calls(self, way: Way) -> list[str]:
        """Return every write of the way, from number 1 on: its call and the last part of a name."""
        self.run(way, lambda at: False)
        return ["", *json.loads((self.root / "calls.json").read_text())]

    def run(
        self,
        way: Way,
        wanted: Callable[[int], bool],
        *,
        commits: Callable[[int], bool] = lambda at: False,
        before: Callable[[], object] = lambda: None,
    ) -> tuple[list[Cut], int]:
        """Return the copies before the wanted writes, and how many writes there were.

        The last copy, number 0, is of the moment after the answer was given, if wanted.
        commits: before these writes another program syncs a file of its own, which takes to the
        disk every name so far, and no byte of ours
        """
        running = copy_image(way.base, self.root / "running.img")
        marks = self.root / "marks"
        marks.write_text("")
        with self.on(way, running, self.root / "disk") as bench:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    before()
                    self._run(bench, running, marks, wanted, commits)
                    code = 0
                finally:
                    if code:
                        traceback.print_exc()
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        lines = [json.loads(line) for line in marks.read_text().splitlines()]
        calls = json.loads((self.root / "calls.json").read_text())
        cuts = []
        for at, told in lines:
            name = calls[at - 1] if at else "after the answer"
            image = self.root / f"cut-{at}.img"
            handed = tuple(bytes.fromhex(one) for one in told)
            cuts.append(Cut(image, way.name, at, name, handed))
        return cuts, len(calls)

    def _run(
        self,
        bench: SimInstaller,
        running: Path,
        marks: Path,
        wanted: Callable[[int], bool],
        commits: Callable[[int], bool],
    ) -> None:
        foreign = bench.paths.prefix.parent / "foreign"

        def each(at: int) -> None:
            if commits(at):
                fd = os.open(foreign, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                os.write(fd, b"x")
                os.fsync(fd)
                os.close(fd)
            if wanted(at):
                copy_image(running, self.root / f"cut-{at}.img")
                told = [signed.hex() for signed, _ in bench.report.receipts]
                with marks.open("a") as file:
                    file.write(json.dumps([at, told]) + "\n")

        faults = Faults(each=each)
        with faults:
            faults.arm()
            bench.open()
            bench.acceptor.poll(bench.source(), bench.report)
            each(0)
            faults.disarm()
        names = [f"{call} {Path(subject).name}" for call, subject in faults.trace]
        (self.root / "calls.json").write_text(json.dumps(names))
        bench.close()

    def check(self, cut: Cut, where: Path, port: int) -> None:
        """Every promise holds on what the cut left; raises AssertionError."""
        way = self.ways[cut.way]
        with self.on(way, cut.image, where) as bench:
            check_link(bench.paths, bench.app, way.approved)
            bench.port = port
            bench.allow(bench.app, port)
            bench.open()
            try:
                check_rest(bench, way.versions)
                check_twice(bench)
                key = bytes(bench.identity.receipt_key.verify_key)
                check_told(bench.paths, key, cut.told)
                check_floors(way.floors, FloorStore(bench.paths.floors).load(repair=False))
                check_end(bench, good=cut.way != "rollback", version=way.end)
                check_told(bench.paths, key, cut.told)
            finally:
                bench.close()

    def broken(self, cuts: Sequence[Cut]) -> list[str]:
        """Return what is wrong with each cut that broke a promise; checked two at a time."""
        pipes = []
        for worker in range(WORKERS):
            read_end, write_end = os.pipe()
            port = free_port()
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    os.close(read_end)
                    for cut in cuts[worker::WORKERS]:
                        said = self._said(cut, self.root / f"left-{worker}", port)
                        os.write(write_end, (json.dumps(said) + "\n").encode())
                os._exit(0)
            os.close(write_end)
            pipes.append((child, read_end))
        found = []
        for child, read_end in pipes:
            with os.fdopen(read_end) as file:
                found += [json.loads(line) for line in file]
            os.waitpid(child, 0)
        assert len(found) == len(cuts), "a worker died"
        return [said for said in found if said]

    def _said(self, cut: Cut, where: Path, port: int) -> str:
        try:
            self.check(cut, where, port)
        except Exception as problem:
            trace = traceback.format_exc(limit=-2)
            return f"{cut}: {type(problem).__name__} {problem}\n{trace}"[:4000]
        finally:
            cut.image.unlink()
        return ""


def spread(total: int, points: int, *, offset: float = 0.0) -> set[int]:
    """Return `points` write numbers from 1 to `total`, spread evenly."""
    return {1 + int((part + offset) * total / points) for part in range(points)}
