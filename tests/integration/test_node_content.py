"""How blobs come into a release, on real file systems: a writer of one never changes another.

ext4 has second names, btrfs and xfs share blocks. The app's user is a number: nobody has to exist.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench.mirror import served
from embrasure.bundle.store import BlobStore
from embrasure.bundle.twins import TWIN
from embrasure.errors import Damaged
from embrasure.fs import Folder
from embrasure.net.https import MirrorSource
from embrasure.trust.folder import FolderSource
from embrasure.trust.layout import blob_file
from embrasure.trust.source import Source
from node import tree
from node.placing import Placer
from node.space import copied_bytes, ways_between
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.disk import make_image, missing_need, mounted
from tests.simulate.installer import SimInstaller
from tests.simulate.listener import trust_from
from tests.simulate.releases import file_entry, make_release
from tests.simulate.sources import BrokenSource, MemorySource

APP_USER = 54321
MAIN, DATA = b"#!/bin/sh\necho 1\n", b"data " * 5_000
FILES = {"code/main": MAIN, "code/other": MAIN, "config/data": DATA, "config/empty": b""}
TX = "ab" * 16

pytestmark = pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}")


class Place:
    """A blob store and a folder of releases on one disk, or on two."""

    def __init__(self, top: Path, second: Path | None = None) -> None:
        self.top = top
        self.blobs = BlobStore(top / "blobs")
        self.releases = Folder.open((second or top) / "releases", create=True)
        self.releases.chmod(0o755)  # apps run as other users
        for data in FILES.values():
            self.put(data)
        self.blobs.sync()

    def put(self, data: bytes) -> Path:
        digest = hashlib.sha256(data).hexdigest()
        with self.blobs.writer(digest, length=len(data)) as writer:
            writer.write(data[writer.offset :])
            writer.commit()
        return self.blobs.path(digest)

    def blob(self, data: bytes) -> Path:
        return self.blobs.path(hashlib.sha256(data).hexdigest())

    def build(self, name: str, *, user: int = APP_USER) -> tuple[Path, dict[str, int]]:
        """Return the folder of a new release, and how its files came there."""
        made = make_release("shop", FILES).manifest
        documents = {"manifest.json": b"{}"}
        ways = tree.build(
            self.releases, tx=TX, manifest=made, documents=documents, blobs=self.blobs, user=user
        )
        tree.name_release(self.releases, tx=TX, release=name)
        return self.releases.path / name, {str(way): count for way, count in ways.items()}

    def close(self) -> None:
        self.blobs.close()
        self.releases.close()


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[Path]:
    """A small disk of this kind."""
    if missing_need(kind):
        pytest.skip(f"needs {missing_need(kind)}")
    image = make_image(folder / f"{kind}.img", kind)
    with mounted(image, folder / kind, kind) as where:
        where.chmod(0o755)
        yield where


@contextmanager
def placed(folder: Path, kind: str) -> Iterator[Place]:
    with disk(folder, kind) as where:
        place = Place(where)
        try:
            yield place
        finally:
            place.close()


def write_as(user: int, path: Path) -> bool:
    """Return whether a process of `user`, who reads the file, could change it by any means."""
    line = 'cat "$0" >/dev/null || exit 99; '
    line += 'chmod 666 "$0" 2>/dev/null; printf evil | dd of="$0" conv=notrunc status=none'
    done = subprocess.run(
        ["/bin/sh", "-c", line, str(path)], user=user, group=user, extra_groups=[],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode != 99, done.stderr
    return done.returncode == 0


@pytest.fixture
def within_reach(tmp_path: Path) -> Iterator[None]:
    """Another user may walk to the files of this test, as it may to /opt."""
    kept = {path: path.stat().st_mode for path in (tmp_path, *tmp_path.parents)}
    for path, mode in kept.items():
        path.chmod(mode | 0o011)
    yield
    for path, mode in kept.items():
        path.chmod(stat.S_IMODE(mode))


# --- Shared blocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_blocks_are_shared_until_somebody_writes(tmp_path: Path, kind: str) -> None:
    with placed(tmp_path, kind) as place:
        one, ways = place.build("1-" + "a" * 16, user=0)
        assert ways == {"reflink": len(FILES)}, "also where app and node are one user"
        two, _ = place.build("2-" + "b" * 16, user=0)
        assert ways_between(place.blobs, place.releases, user=0) >= {"reflink", "copy"}
        assert place.releases.list() == [one.name, two.name], "the trial left nothing"
        target = one / "config/data"
        target.chmod(0o644)
        with target.open("r+b") as file:
            file.write(b"changed")
        assert (two / "config/data").read_bytes() == DATA
        assert place.blob(DATA).read_bytes() == DATA


def test_nothing_is_written_twice_where_blocks_are_shared(tmp_path: Path) -> None:
    made = make_release("shop", FILES).manifest
    assert copied_bytes(made, frozenset({"copy", "reflink"})) == 0
    assert copied_bytes(made, frozenset({"copy", "hardlink"})) == 2 * len(MAIN)
    assert copied_bytes(made, frozenset({"copy"})) == made.total_bytes()


# --- Second names --------------------------------------------------------------------------------


def test_a_file_that_the_app_can_never_write_to_is_the_blob_itself(
    tmp_path: Path, within_reach: None
) -> None:
    with placed(tmp_path, "ext4") as place:
        one, ways = place.build("1-" + "a" * 16)
        assert ways == {"hardlink": len(FILES)}
        two, _ = place.build("2-" + "b" * 16)
        same = [(folder / "config/data").stat().st_ino for folder in (one, two)]
        assert {*same, place.blob(DATA).stat().st_ino} == {same[0]}
        # One file has one mode: what may be run is a second file in the store.
        twin = place.blob(MAIN).with_name(place.blob(MAIN).name + TWIN)
        assert (one / "code/main").stat().st_ino == twin.stat().st_ino
        assert stat.S_IMODE(twin.stat().st_mode) == 0o555
        assert stat.S_IMODE(place.blob(MAIN).stat().st_mode) == 0o444
        for folder in (one, two):
            assert not write_as(APP_USER, folder / "config/data")
            assert not write_as(APP_USER, folder / "code/main")
        assert (two / "config/data").read_bytes() == DATA


@pytest.mark.misuse
def test_an_app_of_the_blobs_owner_gets_copies(
    tmp_path: Path, within_reach: None, ablation: Ablation
) -> None:
    with placed(tmp_path, "ext4") as place:
        os.chown(place.blob(DATA), APP_USER, APP_USER)
        one, ways = place.build("1-" + "a" * 16)
        assert ways == {"hardlink": 3, "copy": 1}
        two, _ = place.build("2-" + "b" * 16)
        os.chown(one / "config/data", APP_USER, APP_USER)  # the worst that can be
        assert write_as(APP_USER, one / "config/data")
        assert (two / "config/data").read_bytes() == DATA
        assert place.blob(DATA).read_bytes() == DATA
        with ablation("the rule of whose file may be shared") as attack:
            attack.without("node.placing.is_safe_to_share", lambda *_, **__: True)
            placer = Placer(place.blobs, user=APP_USER)
            for name in ("three", "four"):
                placer.place(place.releases, name, file_entry("config/data", DATA))
            assert write_as(APP_USER, place.releases.path / "three")
            attack.succeeded((place.releases.path / "four").read_bytes().startswith(b"evil"))


@pytest.mark.misuse
def test_an_app_that_runs_as_root_gets_copies(tmp_path: Path, ablation: Ablation) -> None:
    with placed(tmp_path, "ext4") as place:
        one, ways = place.build("1-" + "a" * 16, user=0)
        assert ways == {"copy": len(FILES)}
        with (one / "config/data").open("r+b") as file:
            file.write(b"evil")  # root writes to anything
        assert place.blob(DATA).read_bytes() == DATA
        two, _ = place.build("2-" + "b" * 16)
        with ablation("the rule of who the app runs as") as attack:
            with (two / "config/data").open("r+b") as file:
                file.write(b"evil")  # linked for another user, written by root
            attack.succeeded(place.blob(DATA).read_bytes().startswith(b"evil"))


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o4444])
def test_a_blob_of_another_mode_is_copied(tmp_path: Path, mode: int) -> None:
    with placed(tmp_path, "ext4") as place:
        place.blob(DATA).chmod(mode)
        one, ways = place.build("1-" + "a" * 16)
        assert ways["copy"] == 1
        assert stat.S_IMODE((one / "config/data").stat().st_mode) == 0o444


@pytest.mark.long
def test_a_file_with_all_the_names_it_can_have_is_copied(tmp_path: Path) -> None:
    with placed(tmp_path, "ext4") as place:
        names = tmp_path / "ext4" / "names"
        names.mkdir()
        digest = hashlib.sha256(DATA).hexdigest()
        with pytest.raises(OSError, match="Too many links"):
            for number in range(65_001):
                os.link(place.blob(DATA), names / str(number))
        entry = file_entry("config/data", DATA)
        placer = Placer(place.blobs, user=APP_USER)
        placer.place(place.releases, "copied", entry)
        assert placer.ways == {"copy": 1}
        assert (place.releases.path / "copied").read_bytes() == DATA
        empty = file_entry("config/empty", b"")
        placer.place(place.releases, "linked", empty)
        assert placer.ways == {"copy": 1, "hardlink": 1}, "only that file is full of names"
        assert digest == entry.sha256


def test_a_release_on_another_disk_than_its_blobs_is_copied(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(disk(tmp_path, "ext4"))
        (tmp_path / "two").mkdir()
        second = stack.enter_context(disk(tmp_path / "two", "ext4"))
        place = Place(first, second)
        stack.callback(place.close)
        one, ways = place.build("1-" + "a" * 16)
        assert ways == {"copy": len(FILES)}
        assert (one / "config/data").read_bytes() == DATA
        assert ways_between(place.blobs, place.releases, user=APP_USER) == {"copy"}


@pytest.mark.misuse
def test_a_rotted_blob_is_found_by_whatever_way_it_came(tmp_path: Path, ablation: Ablation) -> None:
    for kind in ("ext4", "btrfs"):
        (tmp_path / kind).mkdir()
        with placed(tmp_path / kind, kind) as place:
            blob = place.blob(DATA)
            blob.chmod(0o644)
            blob.write_bytes(b"evil " * 5_000)
            blob.chmod(0o444)
            with pytest.raises(Exception, match="config/data: content"):
                place.build("1-" + "a" * 16)
            if kind == "ext4":
                with ablation("reading back what was built") as attack:
                    attack.without("node.tree.check_built")
                    two, ways = place.build("2-" + "b" * 16)
                    assert ways == {"hardlink": len(FILES)}
                    attack.succeeded((two / "config/data").read_bytes().startswith(b"evil"))


def test_what_came_just_now_is_not_read_back_but_what_may_be_run_is(tmp_path: Path) -> None:
    """A second name is the file that was hashed, written and synced; a twin is a copy of it."""
    with placed(tmp_path, "ext4") as place:
        build = partial(
            tree.build, place.releases, tx=TX, manifest=make_release("shop", FILES).manifest,
            documents={}, blobs=place.blobs, user=APP_USER,
        )  # fmt: skip
        came = {hashlib.sha256(data).hexdigest() for data in FILES.values()}
        assert build(came=came) == {"hardlink": 4}
        # Other bytes, only so that a look at them can be told from none.
        spoil(place.blob(DATA), DATA[::-1])
        assert build(came=came) == {"hardlink": 4}
        with pytest.raises(Damaged, match="config/data: content"):
            build()
        twin = place.blob(MAIN)
        spoil(twin.with_name(twin.name + TWIN), MAIN[::-1])
        with pytest.raises(Damaged, match="code/main: content"):
            build(came=came)


def spoil(path: Path, data: bytes) -> None:
    """The file has other bytes and its old mode."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


# --- A transfer that broke off -------------------------------------------------------------------


class Asked:
    """A source that remembers from which offset each file was asked."""

    def __init__(self, behind: Source) -> None:
        self.behind, self.offsets = behind, dict[str, int]()

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield what the source behind gives."""
        self.offsets[path] = offset
        return self.behind.fetch(path, offset=offset, limit=limit)


@pytest.mark.parametrize("by", ["stick", "mirror"])
def test_a_broken_transfer_goes_on_at_its_byte(tmp_path: Path, by: str) -> None:
    """By push: tests/integration/test_node_push.py."""
    bench = SimInstaller(tmp_path / "node")
    data = os.urandom(700_000)
    path = blob_file(hashlib.sha256(data).hexdigest())
    with ExitStack() as stack:
        stack.callback(bench.close)
        bench.publish(release=bench.make("1.0", files={"code/data": data}))
        assert (
            bench.poll(BrokenSource(MemorySource(bench.repo.files), path, 300_001)) != "committed"
        )
        if by == "stick":
            source: Source = FolderSource(bench.repo.write(tmp_path / "stick"))
        else:
            authority = Authority()
            mirror = stack.enter_context(served(tmp_path / "m1", authority, bench.repo))
            trust = trust_from(authority)
            opened = MirrorSource(mirror.address, name="m1", trust=trust)
            source = stack.enter_context(closing(opened))
        asked = Asked(source)
        assert bench.poll(asked) == "committed"
        assert asked.offsets[path] == 300_001
        assert (bench.paths.current("shop") / "code/data").read_bytes() == data
