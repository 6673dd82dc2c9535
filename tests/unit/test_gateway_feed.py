"""What a node may ask the gateway for: every published path, and nothing that merely lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.bundle.packing import PackedSource
from embrasure.errors import NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from embrasure.trust.client import TrustClient
from embrasure.trust.folder import FolderSource
from embrasure.trust.view import View
from gateway.feed import GENERATIONS, Feed, framed
from gateway.published import Contents, Shelf
from tests.ablation import Ablation
from tests.simulate.releases import make_release
from tests.simulate.repository import SimRepository


@pytest.fixture(scope="module")
def sim() -> SimRepository:
    found = SimRepository()
    node = found.add_node()
    for app in ("shop", "blog"):
        found.add_app(app)
        release = found.add_release(app, {"code/main": f"#!{app}".encode(), "config/x": b""})
        found.set_gate(found.set_plan(release, canary=[node]))
    found.publish()
    found.publish()
    return found


def view_of(sim: SimRepository, folder: Path) -> View:
    return TrustClient(folder / "tuf", sim.anchor).refresh(sim.source(), roles=None)


def test_the_table_is_the_whole_published_repository(sim: SimRepository, tmp_path: Path) -> None:
    contents = Shelf(sim.source()).contents(view_of(sim, tmp_path))
    assert contents.paths <= set(sim.files)
    # Older versions of documents stay on disk; every blob of a listed manifest is named.
    assert {p for p in contents.paths if p.startswith("blobs/")} == {
        p for p in sim.files if p.startswith("blobs/")
    }
    assert layout.metadata_file("root", 1) in contents.paths


def test_a_letterbox_gets_trust_files_only(sim: SimRepository, tmp_path: Path) -> None:
    contents = Shelf(sim.source()).contents(view_of(sim, tmp_path))
    assert contents.trust < contents.paths
    told = " ".join(sorted(contents.trust))
    assert "targets/fleet/dev/dir/" in told and "targets/revoked/" in told
    assert "shop" not in told and "gates" not in told and "blobs/" not in told


def feed_of(sim: SimRepository, tmp_path: Path) -> Feed:
    folder = tmp_path / "repository"
    sim.write(folder)
    feed = Feed(FolderSource(folder))
    feed.show(Shelf(FolderSource(folder)).contents(view_of(sim, tmp_path)))
    return feed


def test_a_published_file_comes_from_any_offset(sim: SimRepository, tmp_path: Path) -> None:
    feed = feed_of(sim, tmp_path)
    path = next(p for p in sim.files if p.startswith("blobs/") and len(sim.files[p]) > 3)
    data = sim.files[path]
    for offset in (0, 1, len(data)):
        left = len(data) - offset
        assert b"".join(feed.fetch(path, offset=offset, limit=left)) == data[offset:]
    with pytest.raises(Refused):
        b"".join(feed.fetch(path, offset=0, limit=len(data) - 1))


@pytest.mark.parametrize(
    "path",
    [
        "../state/gateway.sqlite", "/etc/passwd", "metadata/../../keys/gates.key", "",
        "metadata/9.root.json", "blobs/aa/" + "b" * 64, "targets/x.json", "metadata/1.root.json/",
        "metadata/1.root.json\x00", "METADATA/1.root.json", "v1/watch/1",
    ],
)  # fmt: skip
def test_what_is_not_published_is_given_to_nobody(
    sim: SimRepository, tmp_path: Path, path: str
) -> None:
    feed = feed_of(sim, tmp_path)
    with pytest.raises((Refused, NotFound)):
        list(feed.fetch(path, offset=0, limit=10_000))


@given(st.text(max_size=80))
def test_random_paths_are_refused(path: str) -> None:
    feed = Feed(FolderSource(Path("/")))
    feed.show(Contents(1, frozenset({"metadata/timestamp.json"}), frozenset()))
    with pytest.raises((Refused, NotFound)):
        list(feed.fetch(path, offset=0, limit=10))


@pytest.mark.misuse
def test_without_the_table_an_unapproved_upload_would_be_served(
    sim: SimRepository, tmp_path: Path, ablation: Ablation
) -> None:
    feed = feed_of(sim, tmp_path)
    secret = b"uploaded for a proposal that nobody has approved"
    path = layout.blob_file(sha256_hex(secret))
    file = tmp_path / "repository" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(secret)
    with pytest.raises(NotFound):
        list(feed.fetch(path, offset=0, limit=1000))
    with ablation("the table of what was published") as attack:
        attack.without("gateway.feed.Feed.check", lambda *a, **k: None)
        attack.succeeded(b"".join(feed.fetch(path, offset=0, limit=1000)) == secret)


@pytest.mark.misuse
def test_a_pack_is_given_exactly_where_its_blobs_are(
    sim: SimRepository, tmp_path: Path, ablation: Ablation
) -> None:
    folder = tmp_path / "repository"
    sim.write(folder)
    source = PackedSource(FolderSource(folder))
    shown = Shelf(source).contents(view_of(sim, tmp_path))
    feed = Feed(source)
    feed.show(shown)
    assert len(shown.packs) == 2
    assert not shown.packs & shown.paths, "no mirror is sent what is no file"
    for pack in shown.packs:
        assert b"".join(feed.fetch(pack, offset=0, limit=1000)).startswith(b"#!")
    # A manifest and its blobs that lie there, of a release that nobody has approved.
    secret = make_release("shop", {"code/main": b"of a proposal"})
    manifest = layout.manifest_path("dev", "shop", secret.digest)
    files = {layout.target_file(manifest, secret.digest): secret.raw}
    files |= {layout.blob_file(digest): data for digest, data in secret.blobs.items()}
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    asked = layout.pack_file("dev", "shop", secret.digest)
    with pytest.raises(NotFound):
        list(feed.fetch(asked, offset=0, limit=1000))
    with ablation("the table of what was published") as attack:
        attack.without("gateway.feed.Feed.check", lambda *a, **k: None)
        attack.succeeded(b"".join(feed.fetch(asked, offset=0, limit=1000)) == b"of a proposal")


def test_a_node_in_the_middle_of_a_refresh_still_finds_its_files() -> None:
    feed = Feed(FolderSource(Path("/nowhere")))
    for number in range(1, GENERATIONS + 3):
        name = layout.metadata_file("snapshot", number)
        feed.show(Contents(number, frozenset({name}), frozenset()))
    feed.check(layout.metadata_file("snapshot", 3))
    with pytest.raises(NotFound):
        feed.check(layout.metadata_file("snapshot", 2))


def test_what_somebody_else_has_just_published_is_found_too() -> None:
    newest = layout.metadata_file("snapshot", 2)
    now = [Contents(1, frozenset({"metadata/timestamp.json"}), frozenset())]
    feed = Feed(FolderSource(Path("/nowhere")), lambda: now[0])
    with pytest.raises(NotFound):
        feed.check(newest)
    now[0] = Contents(2, frozenset({newest}), frozenset())
    feed.check(newest)
    feed.check("metadata/timestamp.json")


@given(st.lists(st.integers(0, 3 * limits.FRAME_BODY_BYTES // 2), max_size=5))
def test_frames_are_whole_and_hold_the_same_bytes(sizes: list[int]) -> None:
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    found = list(framed(iter(pieces)))
    assert b"".join(found) == b"".join(pieces)
    assert all(len(frame) == limits.FRAME_BODY_BYTES for frame in found[:-1])
    assert all(0 < len(frame) <= limits.FRAME_BODY_BYTES for frame in found)
