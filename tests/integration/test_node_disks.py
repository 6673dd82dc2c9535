"""A disk that is full, or out of inodes, from some write of an install on: really, no fault."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from embrasure import limits
from tests.simulate.faults import Faults
from tests.simulate.sweep import Case, Place, traced
from tests.simulate.sweep_install import InstallScene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
POINTS = 10  # of each kind
ROOMY = {"size": "256m", "nr_inodes": "100k"}


class Disk:
    """A file system in memory whose limits can be drawn in around what lies on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._mount("mount", "-t", "tmpfs")

    def _mount(self, *command: str, **limited: str) -> None:
        options = ",".join(f"{name}={value}" for name, value in {**ROOMY, **limited}.items())
        subprocess.run([*command, "-o", options, "none", self.path], check=True)

    def fill(self, what: str) -> None:
        """Not one more byte, or inode, is free."""
        found = os.statvfs(self.path)
        if what == "size":
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            self._mount("mount", "-o", "remount", size=str(used))
        else:
            self._mount("mount", "-o", "remount", nr_inodes=str(found.f_files - found.f_ffree))

    def empty(self) -> None:
        """There is room again."""
        self._mount("mount", "-o", "remount")

    def end(self) -> None:
        """It is gone."""
        subprocess.run(["umount", self.path], check=True)


def fill_at(disk: Disk, what: str, at: int, number: int) -> None:
    """The disk is full from operation `at` on."""
    if number == at:
        disk.fill(what)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "FREE_BYTES", 0)
        patch.setattr(limits, "INODES_KEPT", 0)
        made = Disk(tmp_path / "disk")
        yield made
        made.end()


@pytest.mark.long
@pytest.mark.parametrize("what", ["size", "nr_inodes"])
@pytest.mark.parametrize("mode", ["good", "crash"])
def test_a_disk_that_is_full_from_some_write_on_costs_an_install_and_no_more(
    disk: Disk, tmp_path: Path, what: str, mode: str
) -> None:
    scene = InstallScene(tmp_path, "upgrade", held=("1.0",), mode=mode)
    total = len(traced(scene))
    room = disk.path / "room"
    room.mkdir()
    place = Place(scene, room)
    for part in range(POINTS):
        at = 1 + part * (total - 1) // (POINTS - 1)
        place.reset()
        scene.act(Faults(each=functools.partial(fill_at, disk, what, at)))
        found = scene.serving()
        disk.empty()
        assert found + place.recovered() == [], f"{what} full from operation {at} on"


def test_a_disk_with_room_is_no_matter(disk: Disk, tmp_path: Path) -> None:
    """The honest twin: the same disk, never full."""
    scene = InstallScene(tmp_path, "upgrade", held=("1.0",))
    total = len(traced(scene))
    room = disk.path / "room"
    room.mkdir()
    assert Place(scene, room).run(Case("upgrade", "short", total)) == []
