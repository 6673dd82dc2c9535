"""A power cut at the writes of an install, on a real file system: what was not synced is gone.

`-m long`: needs root and loop devices. The control shows that a missing sync is found.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.fs import Folder
from node.paths import Paths
from node.releases import find_release, is_whole
from tests.ablation import Ablation
from tests.integration.test_node_kill import Arming, check_end, check_rest
from tests.simulate.disk import copy_image, make_image, missing_need, mounted
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}"),
]
POINTS = 40


@dataclass
class Rig:
    """A node on a disk in a file, just before an upgrade; the repository stays outside."""

    bench: SimInstaller
    base: Path
    root: Path

    @contextmanager
    def on(self, image: Path, where: Path) -> Iterator[SimInstaller]:
        """Yield the bench on this disk, closed."""
        with mounted(image, where):
            self.bench.paths = Paths(where / "node")
            self.bench.report = Told()
            self.bench.clock.ahead = timedelta()
            yield self.bench

    def cut(self, at: int, *, before: Callable[[], object] = lambda: None) -> Path:
        """Return what a power cut at write `at` leaves; 0: right after the commit was answered."""
        running = copy_image(self.base, self.root / "running.img")
        left = self.root / "cut.img"
        with self.on(running, self.root / "disk") as bench:
            child = os.fork()
            if child == 0:
                try:
                    before()
                    self._install(
                        bench, Faults(kill_at=at, last_act=lambda: copy_image(running, left))
                    )
                finally:
                    os._exit(1)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status)
            assert os.WTERMSIG(status) == signal.SIGKILL
        return left

    def _install(self, bench: SimInstaller, faults: Faults) -> None:
        with faults:
            bench.open()
            answer = bench.acceptor.poll(bench.source(), Arming(faults))[0]
            assert answer.kind == "committed"
            faults.kill()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    patch = pytest.MonkeyPatch()
    patch.setattr(limits, "FREE_BYTES", 0)
    patch.setattr(limits, "INODES_KEPT", 0)
    root = tmp_path_factory.mktemp("power")
    base = make_image(root / "base.img")
    with mounted(base, root / "disk"):
        bench = SimInstaller(root / "disk")
        bench.publish("1.0")
        assert bench.poll() == "committed"
        more = {f"code/lib/m{number}.py": os.urandom(20_000) for number in range(20)}
        bench.publish("2.0", release=bench.make("2.0", files=more))
        bench.close()
    yield Rig(bench, base, root)
    patch.undo()


def writes(rig: Rig) -> int:
    """Return how many writes the upgrade takes."""
    image = copy_image(rig.base, rig.root / "count.img")
    faults = Faults()
    with rig.on(image, rig.root / "count") as bench, faults:
        bench.open()
        assert bench.acceptor.poll(bench.source(), Arming(faults))[0].kind == "committed"
        bench.close()
    return faults.count


def test_a_power_cut_at_any_write_leaves_one_whole_release(rig: Rig) -> None:
    total = writes(rig)
    for part in range(POINTS):
        left = rig.cut(1 + part * (total - 1) // POINTS)
        with rig.on(left, rig.root / "left") as bench:
            bench.open()
            try:
                check_rest(bench, "good")
                check_end(bench, "good")
            finally:
                bench.close()


def test_what_was_answered_committed_survives_a_power_cut(rig: Rig) -> None:
    left = rig.cut(0)
    with rig.on(left, rig.root / "left") as bench:
        bench.open()
        try:
            check_rest(bench, "good")
            assert bench.ask() == "2.0"
            assert [one.kind for one in bench.told()][-1] == 2
        finally:
            bench.close()


@pytest.mark.misuse
def test_without_the_sync_the_same_cut_leaves_a_broken_release(
    rig: Rig, ablation: Ablation
) -> None:
    def no_sync() -> None:
        pytest.MonkeyPatch().setattr(Folder, "syncfs", lambda self: None)

    left = rig.cut(0, before=no_sync)
    with rig.on(left, rig.root / "left") as bench, ablation("the sync") as attack:
        paths = bench.paths
        release = find_release(paths, "shop", paths.current("shop").readlink().name)
        attack.succeeded(release is None or not is_whole(paths, "shop", release, deep=True))
