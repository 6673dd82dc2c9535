"""Small files are written into the release at once; nothing half of it outlives what cut it off."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from embrasure import fsops, limits
from embrasure.bundle.packing import PackedSource
from embrasure.bundle.store import BlobStore
from embrasure.errors import EmbrasureError, Unavailable
from embrasure.fs import Folder
from embrasure.fsops import Op
from embrasure.trust.layout import parse_pack
from node.early import Early
from tests.ablation import Ablation
from tests.simulate.disk import make_image, missing_need, mounted
from tests.simulate.installer import SimInstaller
from tests.simulate.releases import make_release
from tests.simulate.sources import MemorySource
from tests.simulate.sweep_install import small

TX = "ab" * 16
FILES = {f"config/{number}": b"number %d" % number for number in range(5)}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Place:
    """A store, and a release whose files are its blobs, on one disk."""

    def __init__(self, top: Path) -> None:
        self.blobs = BlobStore(top / "blobs")
        self.releases = Folder.open(top / "releases", create=True)
        self.manifest = make_release("shop", {"code/main": b"#!", **FILES}).manifest
        self.staging = top / "releases" / f".tmp-{TX}"

    def early(self) -> Early:
        return Early(self.releases, tx=TX, manifest=self.manifest, blobs=self.blobs)

    def put(self, early: Early) -> None:
        for data in FILES.values():
            assert self.blobs.put(name(data), data, at=early)

    def shelf(self, data: bytes) -> Path:
        return self.blobs.folder / name(data)[:2] / name(data)

    def here(self) -> int:
        """Return how many of the files are blobs, as the store says."""
        return sum(self.blobs.has(name(data), length=len(data)) for data in FILES.values())


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.blobs.close()
    made.releases.close()


def test_a_file_gets_its_name_in_the_store_by_the_sync(place: Place) -> None:
    with place.early() as early:
        place.put(early)
        assert early.done == set(FILES)
        for path, data in FILES.items():
            assert (place.staging / path).read_bytes() == data
            assert b"".join(place.blobs.read(name(data))) == data, "readable at once"
            assert not place.shelf(data).exists()
        assert not place.blobs.begun()
        place.blobs.sync()
    for path, data in FILES.items():
        assert place.shelf(data).samefile(place.staging / path)
        assert place.shelf(data).stat().st_nlink == 2
    assert place.here() == len(FILES)


def test_what_was_not_synced_is_no_blob_and_comes_again(place: Place) -> None:
    with place.early() as early:
        place.put(early)
    assert place.here() == 0
    with place.early() as early:
        place.put(early)
        place.blobs.sync()
    assert place.here() == len(FILES)


def test_a_disk_that_does_not_sync_gets_no_names(place: Place) -> None:
    class Fails:
        def before(self, op: Op) -> int | None:
            if op.call == "syncfs":
                raise OSError(errno.EIO, "not written")
            return None

        def after(self, op: Op, result: int) -> None:
            pass

    with place.early() as early:
        place.put(early)
        with fsops.watched(Fails()), pytest.raises(EmbrasureError):
            place.blobs.sync()
        assert early.done == set(), "a second sync would lie"
        assert list((place.staging / "config").iterdir()) == []
        place.blobs.sync()
    assert place.here() == 0
    assert not any(place.shelf(data).exists() for data in FILES.values())


def test_a_damaged_blob_gives_way(place: Place) -> None:
    data = FILES["config/3"]
    place.shelf(data).parent.mkdir()
    place.shelf(data).write_bytes(b"of another length")
    with place.early() as early:
        place.put(early)
        place.blobs.sync()
    assert place.shelf(data).read_bytes() == data
    assert place.here() == len(FILES)


def test_a_release_of_many_folders_holds_few_of_them(tmp_path: Path, place: Place) -> None:
    many = {f"config/{n}/file": b"%d" % n for n in range(limits.EARLY_FOLDERS + 20)}
    place.manifest = make_release("shop", {"code/main": b"#!", **many}).manifest
    before = len(list(Path("/proc/self/fd").iterdir()))
    with place.early() as early:
        for data in many.values():
            place.blobs.put(name(data), data, at=early)
        held = len(list(Path("/proc/self/fd").iterdir())) - before
        assert held <= limits.EARLY_FOLDERS + 1
        place.blobs.sync()
    assert all(place.shelf(data).read_bytes() == data for data in many.values())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@needs_root
@pytest.mark.skipif(bool(missing_need()), reason=f"needs {missing_need()}")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_release_that_reuses_a_blob_shares_no_file_where_blocks_can_be_shared(
    tmp_path: Path, kind: str
) -> None:
    """On xfs the way back does not change with what root writes into the release that runs."""
    tmp_path.chmod(0o755)
    with mounted(make_image(tmp_path / "image", kind), tmp_path / "disk", kind) as disk:
        disk.chmod(0o755)
        with (
            pytest.MonkeyPatch.context() as patch,
            closing(SimInstaller(disk / "node", inner=True, owned=True)) as bench,
        ):
            patch.setattr(limits, "FREE_BYTES", 0)
            for version in ("1.0", "2.0"):
                bench.publish(release=small(bench, version, more=20))
                assert bench.poll(PackedSource(MemorySource(bench.repo.files))) == "committed"
            old, new = sorted(bench.paths.releases("shop").iterdir())
            one, two = (path / "config/more/1.py" for path in (old, new))
            blob = bench.paths.blobs / name(one.read_bytes())[:2] / name(one.read_bytes())
            assert one.samefile(blob), "it came early"
            assert one.samefile(two) == (kind == "ext4")
            two.chmod(0o644)
            two.write_bytes(b"by hand")
            assert (one.read_bytes() == b"by hand") == (kind == "ext4")


class Ends:
    """A source whose pack ends in the middle, blob by blob; told before it does."""

    def __init__(self, bench: SimInstaller) -> None:
        self._bench, self._behind = bench, PackedSource(MemorySource(bench.repo.files))
        self.named, self.staged = 0, 0

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        if parse_pack(path) is None:
            yield from self._behind.fetch(path, offset=offset, limit=limit)
            return
        data = b"".join(self._behind.fetch(path, offset=offset, limit=limit))
        yield from (data[at : at + 8] for at in range(0, len(data) * 3 // 4, 8))
        self.named = names(self._bench)
        self.staged = len(list(self._bench.paths.releases("shop").glob(".tmp-*/config/more/*")))
        raise Unavailable("line", expected="an open one", got="its end", reason="stopping")


def names(bench: SimInstaller) -> int:
    """Return how many blobs have their name."""
    return sum(len(path.name) == 64 for path in bench.paths.blobs.glob("??/*"))


@needs_root
@pytest.mark.misuse
def test_what_a_crash_could_take_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    monkeypatch.setattr(limits, "UNNAMED_BYTES", 60)  # some five files

    def cut_off(top: Path) -> tuple[int, int, int]:
        """Return how many files were staged and how many blobs had names when the line was cut,
        and how many have afterwards.
        """
        tmp_path.chmod(0o755)
        top.mkdir(mode=0o755)
        with closing(SimInstaller(top, inner=True, owned=True)) as bench:
            bench.publish(release=small(bench, "5.0", more=60))
            source = Ends(bench)
            assert bench.poll(source) != "committed"
            return source.staged, source.named, names(bench)

    staged, before, after = cut_off(tmp_path / "bounded")
    assert staged > 20
    assert staged - 8 <= before <= after
    assert after >= staged, "a clean end loses nothing"
    with ablation("the names on the way") as attack:
        attack.without("node.fetching._Coming._note")
        staged, before, after = cut_off(tmp_path / "unbounded")
        assert after >= staged > 20
        attack.succeeded(before == 0)
