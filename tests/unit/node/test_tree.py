"""A release folder: built whole or not at all, and compared to the last file, mode and link."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from embrasure.bundle.manifest import Entry, Manifest
from embrasure.bundle.store import BlobStore
from embrasure.errors import Damaged, EmbrasureError, Failed, Refused
from embrasure.fs import Folder
from node import switch, tree
from tests.ablation import Ablation
from tests.simulate.releases import make_release

FILES = {"code/main": b"#!/bin/sh\n", "code/lib/a.py": b"a = 1\n", "config/app.ini": b"x=1\n"}
DOCUMENTS = {"manifest.json": b"{}", "plan.json": b"{}"}
TX = "ab" * 16


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    for data in FILES.values():
        put(store, data)
    store.sync()
    return store


def put(store: BlobStore, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    with store.writer(digest, length=len(data)) as writer:
        writer.write(data)
        writer.commit()
    return digest


def manifest() -> Manifest:
    """Return a manifest with a file of each kind, an empty folder and a link."""
    made = make_release("shop", FILES).manifest
    empty = hashlib.sha256(b"").hexdigest()
    target = "a.py"
    more = (
        Entry(path="code/empty", kind="dir", mode="0555", length=0, sha256=empty, target=None),
        Entry(
            path="code/lib/b.py", kind="link", mode="0777", length=len(target),
            sha256=hashlib.sha256(target.encode()).hexdigest(), target=target,
        ),
    )  # fmt: skip
    files = tuple(sorted((*made.files, *more), key=lambda entry: entry.path))
    return msgspec.structs.replace(made, files=files)


def build(folder: Folder, blobs: BlobStore) -> None:
    tree.build(folder, tx=TX, manifest=manifest(), documents=DOCUMENTS, blobs=blobs, user=0)


def drifts(releases: Folder, name: str, *, deep: bool = True) -> list[tuple[str, str]]:
    with releases.child(name) as folder:
        found = tree.compare(folder, manifest(), DOCUMENTS, deep=deep)
        return sorted((drift.path, drift.what) for drift in found)


@pytest.fixture
def releases(tmp_path: Path) -> Folder:
    return Folder.open(tmp_path / "releases", create=True)


def test_a_built_release_is_what_its_manifest_says(releases: Folder, blobs: BlobStore) -> None:
    build(releases, blobs)
    tree.name_release(releases, tx=TX, release="1-" + "a" * 16)
    assert releases.list() == ["1-" + "a" * 16]
    folder = releases.path / ("1-" + "a" * 16)
    assert (folder / "code/lib/a.py").read_bytes() == b"a = 1\n"
    assert (folder / "code/lib/b.py").readlink() == Path("a.py")
    assert (folder / "code/main").stat().st_mode & 0o7777 == 0o555
    assert (folder / "config/app.ini").stat().st_mode & 0o7777 == 0o444
    assert (folder / "code/empty").stat().st_mode & 0o7777 == 0o555
    assert drifts(releases, folder.name) == []


def test_staging_left_by_a_crash_is_built_again(releases: Folder, blobs: BlobStore) -> None:
    with releases.mkdir(tree.staging_name(TX)) as staging:
        staging.write("half", [b"x"])
    build(releases, blobs)
    assert drifts(releases, tree.staging_name(TX)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "code/lib/a.py").write_bytes(b"a = 2\n"), ("code/lib/a.py", "content")),
        (lambda f: (f / "code/lib/a.py").chmod(0o666), ("code/lib/a.py", "mode")),
        (lambda f: (f / "code/lib/a.py").unlink(), ("code/lib/a.py", "missing")),
        (lambda f: (f / "code/lib/x.pth").write_bytes(b"import os"), ("code/lib/x.pth", "extra")),
        (lambda f: (f / "code/new").mkdir(), ("code/new", "extra")),
        (lambda f: (f / "code").chmod(0o777), ("code", "mode")),
        (lambda f: relink(f / "code/lib/b.py", "/etc/passwd"), ("code/lib/b.py", "link")),
        (lambda f: relink(f / "code/lib/a.py", "b.py"), ("code/lib/a.py", "type")),
        (lambda f: (f / "plan.json").write_bytes(b"[]"), ("plan.json", "content")),
        (lambda f: (f / "extra.json").write_bytes(b"[]"), ("extra.json", "extra")),
    ],
)
def test_every_change_is_found(releases: Folder, blobs: BlobStore, change, expected) -> None:  # type: ignore[no-untyped-def]  # parametrized lambdas
    build(releases, blobs)
    folder = releases.path / tree.staging_name(TX)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o200)
    change(folder)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink() and path.stat().st_mode & 0o777 not in (0o666, 0o777):
            path.chmod(path.stat().st_mode & ~0o222)
    assert drifts(releases, folder.name) == [expected]


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def test_a_quick_look_sees_lengths_and_a_deep_one_bytes(releases: Folder, blobs: BlobStore) -> None:
    build(releases, blobs)
    path = releases.path / tree.staging_name(TX) / "config/app.ini"
    path.chmod(0o644)
    path.write_bytes(b"x=2\n")
    path.chmod(0o444)
    assert drifts(releases, tree.staging_name(TX), deep=False) == []
    assert drifts(releases, tree.staging_name(TX)) == [("config/app.ini", "content")]


@pytest.mark.misuse
def test_a_blob_swapped_after_its_check_is_seen_when_it_is_copied(
    releases: Folder, blobs: BlobStore, ablation: Ablation
) -> None:
    path = blobs.path(hashlib.sha256(FILES["code/main"]).hexdigest())
    path.chmod(0o644)
    path.write_bytes(b"#!/bin/bb\n")
    with pytest.raises(Damaged) as problem:
        build(releases, blobs)
    assert problem.value.reason == "bad-hash"
    with ablation("the hash of each byte that is copied") as attack:
        attack.without("node.placing.check_copied")
        build(releases, blobs)
        attack.succeeded(
            (releases.path / tree.staging_name(TX) / "code/main").read_bytes() == b"#!/bin/bb\n"
        )


def test_whoever_watches_may_end_a_copy_between_two_pieces(
    releases: Folder, blobs: BlobStore
) -> None:
    told = list[int]()

    def pace(length: int) -> None:
        told.append(length)
        if length:
            raise Failed("build", expected="its end in time", got="a later one", reason="late")

    with tree.gently(pace), pytest.raises(Failed, match="in time"):
        build(releases, blobs)
    assert told == [0, len(FILES["code/lib/a.py"])]
    staging = releases.path / tree.staging_name(TX)
    assert not any(path.is_file() for path in staging.rglob("*")), "half a file is none"


@pytest.mark.misuse
def test_a_staging_folder_swapped_for_a_link_is_never_written_through(
    releases: Folder, blobs: BlobStore, tmp_path: Path, ablation: Ablation
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (releases.path / tree.staging_name(TX)).symlink_to(outside)
    build(releases, blobs)
    assert list(outside.iterdir()) == []
    assert not (releases.path / tree.staging_name(TX)).is_symlink()
    with ablation("a folder made anew") as attack:
        swapped = releases.path / "swapped"
        swapped.symlink_to(outside)
        (swapped / "main").write_bytes(b"x")
        attack.succeeded([path.name for path in outside.iterdir()] == ["main"])


def test_a_switch_is_one_step_and_can_be_repeated(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as app:
        assert switch.current(app) is None
        switch.switch(app, "1-" + "a" * 16)
        assert switch.current(app) == "1-" + "a" * 16
        # A link that an earlier crash left behind is no obstacle.
        app.symlink("releases/half", ".current.new")
        switch.switch(app, "2-" + "b" * 16)
        switch.switch(app, "2-" + "b" * 16)
        assert switch.current(app) == "2-" + "b" * 16
        switch.remove(app)
        switch.remove(app)
        assert switch.current(app) is None


@pytest.mark.misuse
@pytest.mark.parametrize("target", ["/etc", "../../etc", "releases/a/b", "elsewhere"])
def test_a_link_that_is_not_ours_is_no_release(
    tmp_path: Path, target: str, ablation: Ablation
) -> None:
    with Folder.open(tmp_path) as app:
        app.symlink(target, "current")
        assert switch.current(app) is None
        with ablation("the form of its target") as attack:
            # Who follows the link as it is goes there.
            attack.succeeded(app.readlink("current") == target)


def test_a_name_in_use_is_never_replaced(releases: Folder, blobs: BlobStore) -> None:
    build(releases, blobs)
    name = "1-" + "a" * 16
    releases.mkdir(name).close()
    with pytest.raises(Refused):
        releases.rename(tree.staging_name(TX), releases, name)
    with pytest.raises(EmbrasureError):
        releases.child("../x")
