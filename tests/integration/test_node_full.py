"""A node with real programs whose disk is really full: what ran runs on, it is told why, and with
room again the next release installs. No room is pretended: a file takes it.

A few operations of an install are taken; every write of a node: `test_node_disks.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import EmbrasureError, Failed
from embrasure.fs import Folder
from node import space
from node.space import Need
from tests.ablation import Ablation
from tests.simulate.disk import make_image, missing_need, mounted
from tests.simulate.faults import Faults
from tests.simulate.installer import SimInstaller, Told

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk"),
    pytest.mark.timeout(900),
]
DISK, INODES, SAMPLE = 12 * limits.MIB, 900, 9
DONE = {"committed", "none done"}


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A disk of its own, memory only, with few inodes."""
    where.mkdir()
    options = f"size={DISK},nr_inodes={INODES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def fill_bytes(disk: Path) -> None:
    """Not one byte is left."""
    with (disk / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            found = os.statvfs(disk)
            free = found.f_bavail * found.f_frsize
            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, max(free, 1))


def fill_inodes(disk: Path) -> None:
    """Not one more file can be made."""
    (disk / "many").mkdir(exist_ok=True)
    with suppress(OSError):
        for number in range(10 * INODES):
            (disk / "many" / str(number)).touch(exist_ok=True)


def free_again(disk: Path) -> None:
    (disk / "filler").unlink(missing_ok=True)
    for path in (disk / "many").glob("*") if (disk / "many").is_dir() else ():
        path.unlink()


class Node:
    """A node on the small disk, on which a release runs."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.bench = SimInstaller(disk)
        self.number = 1
        self.bench.publish("1.0")
        assert self.bench.poll() == "committed"

    def install(self, version: str, at: int, fill: Callable[[Path], None]) -> tuple[str, int]:
        """Return what is said of an install that meets a full disk at operation `at`, and how many
        operations there were. at: 0 for never
        """

        def each(number: int) -> None:
            if number == at:
                fill(self.disk)

        files = {"code/data": version.encode() * 40_000}
        self.bench.publish(version, release=self.bench.make(version, files=files))
        with Faults(each=each) as faults:
            faults.arm()
            try:
                said = self.bench.poll()
            except EmbrasureError as problem:
                said = f"raised {problem.reason}"
            finally:
                faults.disarm()
        return said, faults.count

    def meets(self, at: int, fill: Callable[[Path], None]) -> str:
        """Return what is said; whatever it is, an app runs, and with room the next one installs."""
        before, self.number = self.number, self.number + 1
        said, _ = self.install(f"{self.number}.0", at, fill)
        running = self.bench.ask()
        assert running in (f"{before}.0", f"{self.number}.0"), (at, said)
        assert said != "committed" or running == f"{self.number}.0"
        free_again(self.disk)
        self.bench.clock.ahead += space_of_time()
        self.number += 1
        said_then, _ = self.install(f"{self.number}.0", 0, fill)
        assert said_then == "committed", (at, said, said_then)
        assert self.bench.ask() == f"{self.number}.0"
        return said


def space_of_time() -> timedelta:

    return timedelta(minutes=2)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with small_disk(tmp_path / "disk") as disk:
        found = Node(disk)
        yield found
        found.bench.close()


def points(node: Node, fill: Callable[[Path], None], *, sample: int | None) -> list[int]:
    node.number += 1
    said, count = node.install(f"{node.number}.0", 0, fill)
    assert said == "committed"
    step = max(1, count // sample) if sample else 1
    return list(range(1, count + 1, step))


def sweep(node: Node, fill: Callable[[Path], None], *, sample: int | None, name: str) -> None:
    found = [node.meets(at, fill) for at in points(node, fill, sample=sample)]
    print(f"figure: full_{name}_cases = {len(found)} cases")
    print(f"figure: full_{name}_refused = {sum(said != 'committed' for said in found)} cases")
    assert any("no-space" in said for said in found)


@pytest.mark.long
def test_a_disk_that_is_full_from_one_moment_on(node: Node) -> None:
    sweep(node, fill_bytes, sample=SAMPLE, name="disk")


@pytest.mark.long
def test_inodes_that_are_used_up_from_one_moment_on(node: Node) -> None:
    sweep(node, fill_inodes, sample=SAMPLE, name="inodes")


def test_what_does_not_fit_is_refused_before_it_is_fetched(node: Node) -> None:
    bench = node.bench
    files = {"code/big": os.urandom(7 * limits.MIB)}  # as a blob and as a file: 14 of 12 MiB
    bench.publish("2.0", release=bench.make("2.0", files=files))
    asked = bench.repo.source()
    bench.report = Told()
    assert bench.poll(asked) == "rejected no-space"
    assert not [path for path in asked.asked if path.startswith("blobs/")]
    record = bench.acceptor._ground.journal.read("shop").record
    assert record is not None
    wanted, left = map(int, re.findall(r"[0-9]{4,}", record.detail)[-2:])
    assert wanted > 14 * limits.MIB and left < DISK, record.detail
    assert bench.ask() == "1.0"
    assert len(bench.told()) == 3, "the operator is told"
    many = {f"code/{number}": b"x%d" % number for number in range(INODES // 2)}
    bench.clock.ahead += space_of_time()
    bench.publish("3.0", release=bench.make("3.0", files=many))
    assert bench.poll() == "rejected no-space"
    record = bench.acceptor._ground.journal.read("shop").record
    assert record is not None and "free inodes" in record.detail
    assert bench.ask() == "1.0"
    bench.publish("4.0")
    assert bench.poll() == "committed"


@pytest.mark.misuse
def test_the_last_committed_release_is_never_collected_to_make_room(
    node: Node, ablation: Ablation
) -> None:
    bench = node.bench
    bench.publish("2.0")
    assert bench.poll() == "committed"
    names = sorted(path.name for path in bench.paths.releases("shop").iterdir())
    files = {"code/big": os.urandom(7 * limits.MIB)}
    bench.publish("3.0", release=bench.make("3.0", files=files))
    assert bench.poll() == "rejected no-space"
    assert sorted(path.name for path in bench.paths.releases("shop").iterdir()) == names
    assert bench.ask() == "2.0"
    bench.clock.ahead += space_of_time()
    bench.publish("4.0", release=bench.make("4.0", files=files))
    with ablation("what must stay") as attack:
        attack.without("node.collection.needed", lambda *_: set())
        bench.poll()
        attack.succeeded(not list(bench.paths.releases("shop").iterdir()))


@pytest.mark.misuse
def test_a_way_back_on_a_full_disk_uses_the_ballast(node: Node, ablation: Ablation) -> None:
    bench = node.bench
    ballast = bench.paths.journal / "ballast"

    def goes_back(version: str) -> str:
        bench.publish(version, "bad")
        bench.acceptor._ground.journal.keep_ballast()
        found: list[str] = []

        class Filling(Told):
            def progress(self, state: str, done: int, total: int) -> None:
                if state == "probing":
                    fill_bytes(node.disk)

        bench.report = Filling()
        with suppress(EmbrasureError):
            found.append(bench.poll())
        return "".join(found)

    assert ballast.stat().st_size == limits.BALLAST_BYTES
    assert goes_back("2.0") == "rolled_back probe"
    assert not ballast.exists()
    assert bench.ask() == "1.0"
    free_again(node.disk)
    bench.report = Told()
    bench.clock.ahead += space_of_time()
    bench.publish("3.0")
    assert bench.poll() == "committed"
    assert ballast.exists(), "kept again once there is room"
    with ablation("the ballast") as attack:
        attack.without("node.journal.Journal._give_up_ballast", lambda self: False)
        attack.succeeded(goes_back("4.0") != "rolled_back probe")
    free_again(node.disk)
    bench.restart()
    assert bench.ask() == "3.0"


@pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}")
def test_a_file_system_that_became_read_only(tmp_path: Path) -> None:
    """An error of ext4 makes it read-only under everybody, with files open."""
    image = make_image(tmp_path / "disk.img")
    with mounted(image, tmp_path / "disk") as disk:
        found = subprocess.run(["findmnt", "-no", "SOURCE", disk], capture_output=True, text=True)
        subprocess.run(["mount", "-o", "remount,errors=remount-ro", disk], check=True)
        bench = SimInstaller(disk)
        bench.publish("1.0")
        assert bench.poll() == "committed"
        bench.publish("2.0")
        trigger = Path("/sys/fs/ext4") / Path(found.stdout.strip()).name / "trigger_fs_error"
        trigger.write_text("test")
        try:
            with pytest.raises(EmbrasureError) as problem:
                bench.poll()
            assert problem.value.reason in ("permissions", "io")
            assert bench.ask() == "1.0"
        finally:
            with suppress(EmbrasureError):
                bench.acceptor.close()
            with suppress(EmbrasureError):
                bench.supervisor.close()
    checked = subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)
    assert checked.returncode in (0, 1)
    with mounted(image, tmp_path / "disk"):
        bench.open()
        try:
            assert bench.ask() == "1.0"
            assert bench.poll() == "committed"
            assert bench.ask() == "2.0"
        finally:
            bench.close()


@pytest.mark.parametrize(
    ("need", "missing"),
    [
        (Need(0, 0), ""),
        (Need(DISK // 2, 100), ""),
        (Need(DISK, 0), "bytes"),
        (Need(DISK * 98 // 100, 0), "bytes"),
        (Need(0, INODES), "inodes"),
        (Need(0, INODES * 98 // 100), "inodes"),
    ],
)
def test_three_of_a_hundred_stay_free(tmp_path: Path, need: Need, missing: str) -> None:
    with small_disk(tmp_path / "disk") as where, Folder.open(where) as folder:
        if not missing:
            space.check(need, folder, app="shop")
            return
        with pytest.raises(Failed, match=f"free {missing}, got") as problem:
            space.check(need, folder, app="shop")
        assert problem.value.reason == "no-space"
