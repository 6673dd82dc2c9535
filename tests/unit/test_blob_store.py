"""Blobs: named by their bytes, resumed at the byte, durable before they have their name."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from embrasure.bundle.incoming import BlobWriter
from embrasure.bundle.store import PARTIAL, BlobStore
from embrasure.descriptor import write_all
from embrasure.errors import Damaged, Failed, NotFound, Refused, Unavailable
from tests.ablation import Ablation

DATA = bytes(range(256)) * 3_000  # three buffers


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    held = BlobStore(tmp_path / "blobs")
    yield held
    held.close()


def put(store: BlobStore, data: bytes) -> str:
    with store.writer(name(data), length=len(data)) as writer:
        writer.write(data[writer.offset :])
        writer.commit()
    return name(data)


def test_a_blob_is_readable_after_commit_and_named_after_sync(store: BlobStore) -> None:
    digest = put(store, DATA)
    final = store.folder / digest[:2] / digest
    assert store.has(digest, length=len(DATA)) and b"".join(store.read(digest)) == DATA
    assert store.path(digest).read_bytes() == DATA and not final.exists()
    store.sync()
    assert store.path(digest) == final
    assert b"".join(store.read(digest)) == DATA
    assert stat.S_IMODE(final.stat().st_mode) == 0o444
    assert list((store.folder / PARTIAL).iterdir()) == []


def test_a_broken_transfer_goes_on_at_its_byte(store: BlobStore) -> None:
    digest = name(DATA)
    with pytest.raises(Unavailable), store.writer(digest, length=len(DATA)) as writer:
        writer.write(DATA[:100_001])
        raise Unavailable("source", expected="bytes", got="silence")
    assert store.held_bytes(digest) == 100_001
    assert not store.has(digest, length=len(DATA))
    with store.writer(digest, length=len(DATA)) as writer:
        assert writer.offset == 100_001
        writer.write(DATA[100_001:])
        writer.commit()
    assert b"".join(store.read(digest)) == DATA


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    digest = put(store, b"")
    store.sync()
    assert store.has(digest, length=0) and list(store.read(digest)) == []


def wrong(store: BlobStore) -> BlobWriter:
    return store.writer(name(b"right"), length=5)


def unhashed(self: BlobWriter) -> None:
    """Commit whatever came."""
    self._store._add_pending(self)


@pytest.mark.misuse
def test_bytes_of_another_digest_are_refused_and_dropped(
    store: BlobStore, ablation: Ablation
) -> None:
    with pytest.raises(Refused) as problem, wrong(store) as writer:
        writer.write(b"wrong")
        writer.commit()
    assert problem.value.reason == "bad-hash"
    assert store.held_bytes(name(b"right")) == 0
    with ablation("the hash") as attack:
        # The same bytes would lie under the name of others.
        attack.without("embrasure.bundle.incoming.BlobWriter.commit", unhashed)
        with wrong(store) as writer:
            writer.write(b"wrong")
            writer.commit()
        store.sync()
        attack.succeeded(store.path(name(b"right")).read_bytes() == b"wrong")


@pytest.mark.misuse
def test_a_resumed_transfer_is_hashed_from_its_first_byte(
    store: BlobStore, ablation: Ablation
) -> None:
    with wrong(store) as writer:
        writer.write(b"wro")  # a hostile source, broken off
    with pytest.raises(Refused) as problem, wrong(store) as writer:
        writer.write(b"ht")  # an honest one
        writer.commit()
    assert problem.value.reason == "bad-hash"
    assert put(store, b"right") == name(b"right"), "the next try starts from nothing"
    with ablation("the hash from the first byte") as attack:
        store.forget(name(b"right"))
        attack.without("embrasure.bundle.incoming.BlobWriter.commit", unhashed)
        with wrong(store) as writer:
            writer.write(b"wro")
        with wrong(store) as writer:
            writer.write(b"ht")
            writer.commit()
        attack.succeeded(store.path(name(b"right")).read_bytes() == b"wroht")


@pytest.mark.misuse
def test_more_bytes_than_the_length_are_refused_before_they_are_written(
    store: BlobStore, ablation: Ablation
) -> None:
    with wrong(store) as writer:
        writer.write(b"righ")
        with pytest.raises(Refused) as problem:
            writer.write(b"t" * 1_000_000)
        assert problem.value.reason == "limit"
        assert store.held_bytes(name(b"right")) == 4
        writer.write(b"t")
        writer.commit()
    with ablation("the count of bytes") as attack, store.writer("a" * 64, length=5) as writer:
        write_all(writer._fd, b"t" * 1_000_000)  # the layer below
        attack.succeeded(store.held_bytes("a" * 64) == 1_000_000)


def test_fewer_bytes_than_the_length_are_refused_and_kept(store: BlobStore) -> None:
    with wrong(store) as writer:
        writer.write(b"rig")
        with pytest.raises(Refused) as problem:
            writer.commit()
        assert problem.value.reason == "bad-length"
    assert store.held_bytes(name(b"right")) == 3


@pytest.mark.parametrize(
    "digest", ["", "a", "../../etc/passwd", "A" * 64, "a" * 63 + "\n", "g" * 64, "a" * 128]
)
def test_a_name_that_is_no_digest_is_refused(store: BlobStore, digest: str) -> None:
    for act in (
        lambda: store.has(digest, length=1),
        lambda: store.missing({"a" * 64: 1, digest: 1}),
        lambda: store.path(digest),
        lambda: list(store.read(digest)),
        lambda: store.writer(digest, length=1),
        lambda: store.held_bytes(digest),
        lambda: store.forget(digest),
    ):
        with pytest.raises(Refused) as problem:
            act()
        assert problem.value.reason == "bad-path"


@pytest.mark.misuse
def test_a_name_does_not_lead_out_of_the_store(
    store: BlobStore, tmp_path: Path, ablation: Ablation
) -> None:
    (tmp_path / "..secret").write_bytes(b"secret")
    with pytest.raises(Refused):
        store.path("..secret")
    with ablation("the form of a digest") as attack:
        attack.without("embrasure.bundle.store.check_digest", lambda digest: digest)
        attack.succeeded(store.path("..secret").read_bytes() == b"secret")


@pytest.mark.misuse
def test_a_blob_that_rotted_on_disk_is_told_when_it_is_read(
    store: BlobStore, ablation: Ablation
) -> None:
    digest = put(store, b"right")
    store.sync()
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"wrong")
    assert store.has(digest, length=5), "the size alone does not show it"
    with pytest.raises(Damaged) as problem:
        list(store.read(digest))
    assert problem.value.reason == "bad-hash"
    with ablation("the hash while it is read") as attack:
        attack.succeeded(store.path(digest).read_bytes() == b"wrong")
    store.forget(digest)
    assert not store.has(digest, length=5)
    put(store, b"right")
    assert b"".join(store.read(digest)) == b"right"


@pytest.mark.misuse
def test_a_blob_that_is_a_link_is_not_there(
    store: BlobStore, tmp_path: Path, ablation: Ablation
) -> None:
    digest = name(b"right")
    (tmp_path / "theirs").write_bytes(b"right")
    folder = store.folder / digest[:2]
    folder.mkdir()
    (folder / digest).symlink_to(tmp_path / "theirs")
    assert not store.has(digest, length=5)
    with pytest.raises(Refused):
        list(store.read(digest))
    with ablation("a file opened without following links") as attack:
        attack.succeeded(store.path(digest).read_bytes() == b"right")


@pytest.mark.misuse
def test_a_partial_file_that_is_a_link_is_not_written_through(
    store: BlobStore, tmp_path: Path, ablation: Ablation
) -> None:
    digest = name(b"right")
    (tmp_path / "theirs").write_bytes(b"theirs")
    (store.folder / PARTIAL / digest).symlink_to(tmp_path / "theirs")
    with pytest.raises(Refused), wrong(store):
        pass
    (store.folder / PARTIAL / digest).unlink()
    (store.folder / PARTIAL / digest).hardlink_to(tmp_path / "theirs")
    with pytest.raises(Damaged), wrong(store):
        pass
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    with ablation("a path that follows no link") as attack:
        (store.folder / PARTIAL / digest).unlink()
        (store.folder / PARTIAL / digest).symlink_to(tmp_path / "theirs")
        fd = follows_links(store._partials.fd, digest, os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"right")
        os.close(fd)
        attack.succeeded((tmp_path / "theirs").read_bytes() == b"rights")


def follows_links(folder_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path as anybody would."""
    return os.open(path, flags & ~os.O_NOFOLLOW, mode, dir_fd=folder_fd)


def test_two_writers_of_one_blob_do_not_mix(store: BlobStore) -> None:
    with wrong(store) as writer:
        writer.write(b"rig")
        with pytest.raises(Unavailable) as problem, wrong(store):
            pass
        assert problem.value.reason == "busy"
        writer.write(b"ht")
        writer.commit()
    with wrong(store) as writer:
        assert writer.offset == 5  # committed, not yet synced
        writer.commit()
    store.sync()
    assert store.has(name(b"right"), length=5)


@pytest.mark.parametrize("kept", [True, False], ids=["whole", "zeros"])
def test_a_blob_that_a_crash_left_sealed_goes_on_without_any_right_of_root(
    tmp_path: Path, *, kept: bool
) -> None:
    folder, digest = tmp_path / "blobs", name(b"right")
    with closing(BlobStore(folder)) as store:
        store.put(digest, b"right")  # the process ends before `sync`
    left = folder / PARTIAL / digest
    assert stat.S_IMODE(left.stat().st_mode) == 0o444
    left.write_bytes(b"right" if kept else bytes(5))
    with closing(BlobStore(folder)) as store, as_somebody(folder):
        with wrong(store) as writer:
            assert writer.offset == 5
            if not kept:
                with pytest.raises(Refused):
                    writer.commit()
            else:
                writer.commit()
        assert (digest in store.begun()) is kept
        put(store, b"right")  # of one that is whole once more: nothing is written
        store.sync()
        found = os.stat(f"{digest[:2]}/{digest}", dir_fd=store._root.fd)
        assert (found.st_size, stat.S_IMODE(found.st_mode)) == (5, 0o444)


@contextmanager
def as_somebody(folder: Path) -> Iterator[None]:
    """The store is his who has no right but that of an owner, whoever runs the test."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 31007, 31007)
    os.seteuid(31007)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_committed_blob_cannot_be_opened_with_another_length(store: BlobStore) -> None:
    digest = put(store, b"right")
    with pytest.raises(Refused) as problem:
        store.writer(digest, length=4)
    assert problem.value.reason == "bad-length"
    assert b"".join(store.read(digest)) == b"right"


def test_a_partial_file_longer_than_the_blob_starts_again(store: BlobStore) -> None:
    (store.folder / PARTIAL / name(b"right")).write_bytes(b"right and more")
    with wrong(store) as writer:
        assert writer.offset == 0
        writer.write(b"right")
        writer.commit()


def test_a_full_disk_is_told_with_both_numbers_before_a_byte_comes(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("embrasure.kernel.reserve", full)
    with pytest.raises(Failed) as problem, wrong(store):
        pass
    assert problem.value.reason == "no-space"
    assert problem.value.expected == "5 bytes of disk" and problem.value.got.endswith(" bytes")
    monkeypatch.undo()
    put(store, b"right")


def test_a_disk_that_fills_up_in_the_middle_keeps_what_came(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = name(DATA)
    with store.writer(digest, length=len(DATA)) as writer:
        writer.write(DATA[:1000])
        monkeypatch.setattr(
            "embrasure.bundle.incoming.write_all",
            lambda fd, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")),
        )
        with pytest.raises(Failed) as problem:
            writer.write(DATA[1000:])
        assert problem.value.reason == "no-space"
    monkeypatch.undo()
    with store.writer(digest, length=len(DATA)) as writer:
        assert writer.offset == 1000


def test_a_sync_that_failed_names_nothing_and_drops_what_it_cannot_vouch_for(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"right")

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("embrasure.kernel.syncfs", fails)
    with pytest.raises(Failed):
        store.sync()
    monkeypatch.undo()
    store.sync()  # a second sync must not report what the first one lost
    assert not store.has(digest, length=5)
    assert store.held_bytes(digest) == 0


def test_a_sweep_keeps_what_lives_and_what_is_on_its_way(store: BlobStore) -> None:
    kept, gone = put(store, b"kept"), put(store, b"gone")
    store.sync()
    pending = put(store, b"pending")
    (store.folder / PARTIAL / name(b"abandoned")).write_bytes(b"aban")
    with wrong(store) as writer:
        writer.write(b"rig")
        assert store.sweep({kept}) == 2  # `gone` and `abandoned`
        writer.write(b"ht")
        writer.commit()
    store.sync()
    assert store.has(kept, length=4) and not store.has(gone, length=4)
    assert store.has(pending, length=7) and store.has(name(b"right"), length=5)
    assert store.held_bytes(name(b"abandoned")) == 0


def test_a_missing_blob_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        list(store.read(name(b"right")))
    assert store.held_bytes(name(b"right")) == 0
    store.forget(name(b"right"))


def test_memory_does_not_grow_with_the_blob(store: BlobStore) -> None:
    import tracemalloc

    data = b"x" * 262_144
    whole = data * 64  # 16 MiB
    digest = name(whole)
    tracemalloc.start()
    with store.writer(digest, length=len(whole)) as writer:
        for _ in range(64):
            writer.write(data)
        writer.commit()
    for _ in store.read(digest):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


def test_a_public_store_can_be_read_by_a_web_server(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "public", mode=0o755)
    digest = put(store, b"right")
    store.sync()
    store.close()
    for place in (tmp_path / "public", tmp_path / "public" / digest[:2]):
        assert stat.S_IMODE(place.stat().st_mode) == 0o755
