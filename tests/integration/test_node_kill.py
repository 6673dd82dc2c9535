"""SIGKILL and failing disks at every write of an install: never between two releases.

The default run takes a spread of points; `-m long` takes all of them.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure.errors import EmbrasureError
from embrasure.trust.receipt import chain_hash
from node.paths import Paths
from node.states import RESTING
from node.verify import verify
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told

POINTS = 6  # of each way in the default run
WAYS = ("first", "good", "bad")
_HOUR = timedelta(hours=1, minutes=1)  # the longest wait after an interruption


class Arming(Told):
    """A report that arms the faults when the install begins."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.faults = faults

    def progress(self, state: str, done: int, total: int) -> None:
        if state == "offered":
            self.faults.arm()


@dataclass(frozen=True)
class Way:
    """A node just before an install that will go one way, and how many writes that takes."""

    bench: SimInstaller
    base: Path
    writes: int

    def copy(self, where: Path) -> SimInstaller:
        """Return the bench on a fresh copy of that node, closed."""
        shutil.copytree(self.base, where, symlinks=True)
        self.bench.paths = Paths(where)
        self.bench.report = Told()
        self.bench.clock.ahead = timedelta()
        return self.bench


def install(bench: SimInstaller, faults: Faults) -> None:
    """Run the install in this process; whatever goes wrong is what is tested."""
    with faults:
        try:
            bench.open()
            bench.acceptor.poll(bench.source(), Arming(faults))
        except EmbrasureError:
            pass
    bench.close()


def killed(bench: SimInstaller, faults: Faults) -> bool:
    """Return whether the install was killed on its way, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            install(bench, faults)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Way]]:
    found = {}
    for name in WAYS:
        root = tmp_path_factory.mktemp(name)
        bench = SimInstaller(root)
        if name != "first":
            bench.publish("1.0")
            assert bench.poll() == "committed"
        bench.publish("2.0", "bad" if name == "bad" else "good")
        bench.close()
        base = bench.paths.prefix
        way = Way(bench, base, 0)
        faults = Faults()
        install(way.copy(root / "dry"), faults)
        found[name] = Way(bench, base, faults.count)
    yield found


def check_rest(bench: SimInstaller, name: str) -> None:
    """The node has come to rest on one whole release, which answers, and goes on from there."""
    record = bench.acceptor._ground.journal.read(bench.app).record
    assert record is None or record.state in RESTING
    assert record is None or record.ending != "degraded"
    link = bench.paths.current(bench.app)
    if name == "first" and not link.is_symlink():
        assert bench.supervisor.running(bench.app) is None
    else:
        # I1: `current` is a whole release that was approved.
        assert link.resolve().parent == bench.paths.releases(bench.app).resolve()
        assert bench.ask() in ("1.0", "2.0")
        (found,) = verify(bench.paths, bench.app)
        assert found.drift == ()


def check_end(bench: SimInstaller, name: str) -> None:
    """After the wait of an interruption the install ends as it would have without the fault."""
    answers = []
    for _ in range(3):
        bench.clock.ahead += _HOUR
        answers.append(bench.poll())
    if name == "bad":
        assert answers[-1] == "hold quarantine", answers
        assert bench.ask() == "1.0"
    else:
        assert answers[-1] == "none done", answers
        assert bench.ask() == "2.0"
    check_leftovers(bench)
    check_chain(bench)


def check_leftovers(bench: SimInstaller) -> None:
    """I6: no staging, no half switch, no temporary record is left."""
    names = [path.name for path in bench.paths.app(bench.app).rglob("*")]
    assert not [name for name in names if name.startswith((".tmp-", ".current"))]
    assert len(list(bench.paths.releases(bench.app).iterdir())) <= 3


def check_chain(bench: SimInstaller) -> None:
    """Receipts are numbered without a gap, each names the one before; a success is told once."""
    posted = bench.acceptor._ground.receipts.outbox.pending(100)
    told = bench.told()
    assert [one.rseq for one in told] == list(range(1, len(told) + 1))
    for before, after in zip(posted, told[1:], strict=False):
        assert after.previous == chain_hash(before.signed)
    soaked = [(one.plan, one.kind) for one in told if one.kind == 2]
    assert len(soaked) == len(set(soaked))


def one_kill(way: Way, name: str, where: Path, at: int, *, after: bool) -> None:
    bench = way.copy(where)
    assert killed(bench, Faults(kill_at=at, after=after))
    bench.open()
    try:
        check_rest(bench, name)
        check_end(bench, name)
    finally:
        bench.close()


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("part", range(POINTS))
def test_a_kill_at_any_write_leaves_one_whole_release(
    ways: dict[str, Way], name: str, part: int, tmp_path: Path
) -> None:
    way = ways[name]
    at = 1 + part * (way.writes - 1) // POINTS
    one_kill(way, name, tmp_path / "node", at, after=part % 2 == 1)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_a_kill_at_every_write_leaves_one_whole_release(
    ways: dict[str, Way], name: str, after: bool, tmp_path: Path
) -> None:
    way = ways[name]
    for at in range(1, way.writes + 1):
        one_kill(way, name, tmp_path / f"node-{at}", at, after=after)


def one_failure(way: Way, name: str, where: Path, at: int, error: int) -> None:
    bench = way.copy(where)
    install(bench, Faults(fail_at=at, error=error))
    bench.open()
    try:
        check_rest(bench, name)
        check_end(bench, name)
    finally:
        bench.close()


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("part", range(POINTS))
def test_a_disk_that_fails_once_at_any_write_leaves_one_whole_release(
    ways: dict[str, Way], name: str, part: int, tmp_path: Path
) -> None:
    way = ways[name]
    at = 1 + (2 * part + 1) * (way.writes - 1) // (2 * POINTS)
    error = (errno.EIO, errno.ENOSPC)[part % 2]
    one_failure(way, name, tmp_path / "node", at, error)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("name", WAYS)
def test_a_disk_that_fails_once_at_every_write_leaves_one_whole_release(
    ways: dict[str, Way], name: str, error: int, tmp_path: Path
) -> None:
    way = ways[name]
    for at in range(1, way.writes + 1):
        one_failure(way, name, tmp_path / f"node-{at}", at, error)
