"""What a mirror shows: whole verified sets and nothing else, whatever a stolen gateway sends."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Damaged, EmbrasureError, Failed, NotFound, Refused, Unavailable
from embrasure.fs import Space
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.door import Door
from embrasure.trust.folder import FolderSource
from mirror.audit import verify_shown
from mirror.inbox import TIMESTAMP, Inbox, Upload, accept_all, bytes_allowed
from mirror.letterbox import accept_trust
from mirror.publish import Publisher, Scope, held_documents
from mirror.standing import Standing
from mirror.verify import Checked, check_repository
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import make_service

FLEET = "fleet-dev"
SHOP = {"code/main": b"#!/bin/sh\n" * 100, "code/empty": b"", "config/a": b"a"}


@pytest.fixture
def repo() -> SimRepository:
    found = SimRepository()
    node = found.add_node(labels={"tier": "web"})
    found.add_app("shop")
    plan = found.set_plan(found.add_release("shop", SHOP), canary=[node])
    found.set_gate(plan, open_wave=0)
    found.publish()
    return found


class Box:
    """A mirror without its listeners."""

    def __init__(self, folder: Path, repo: SimRepository, scope: Scope | None = None) -> None:
        self.folder = folder
        self.shown: list[Checked] = []
        self.anchor = repo.anchor
        (folder / "public").mkdir(parents=True, exist_ok=True)
        (folder / "tuf").mkdir(mode=0o700, exist_ok=True)
        accepts = accept_all if scope is None else accept_trust("dev")
        self.inbox = Inbox(folder / "inbox", folder / "public", accepts=accepts)
        self.publisher = Publisher(
            self.inbox,
            folder / "tuf",
            anchor=repo.anchor,
            scope=scope or Scope(roles=None, needs=FLEET),
            clock=repo.clock,
            shown=self.shown.append,
        )
        door = Door(self.publisher.client)
        self.inbox.counts = Standing(door, folder / "inbox", folder / "public").counts

    def put(self, path: str, body: bytes, *, offset: int = 0) -> None:
        with self.inbox.upload(path, offset=offset) as upload:
            upload.append(body[offset:])
            upload.finish()

    def send(self, files: Mapping[str, bytes]) -> None:
        for path, body in files.items():
            with contextlib.suppress(Refused):
                if path != TIMESTAMP and self.inbox.held(path) is not None:
                    self.put(path, body)

    def publish(self, repo: SimRepository) -> int:
        self.send(repo.files)
        return self.publisher.publish(repo.files[TIMESTAMP])

    def public(self) -> dict[str, bytes]:
        root = self.folder / "public"
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    def seen_by_a_new_node(self) -> int:
        """Return the timestamp version that a new node verifies with all that it needs."""
        found = check_repository(
            FolderSource(self.folder / "public"),
            anchor=self.anchor,
            clock=now,
            roles=None,
            keep=frozenset({FLEET}),
            check_blob=lambda digest, length: self.check_blob(digest, length),
        )
        return found.view.roles[layout.TIMESTAMP].version

    def check_blob(self, digest: str, length: int) -> None:
        assert len(self.public()[layout.blob_file(digest)]) == length


@pytest.fixture
def box(tmp_path: Path, repo: SimRepository) -> Box:
    return Box(tmp_path / "m", repo)


def grow(repo: SimRepository, version: str = "2.0") -> None:
    """A second release is published."""
    release = repo.add_release("shop", {"code/main": version.encode() * 50}, version=version)
    plan = repo.set_plan(release, canary=[next(iter(repo.nodes.values()))])
    repo.set_gate(plan, open_wave=0)
    repo.publish()


def test_a_whole_set_is_shown_byte_for_byte(box: Box, repo: SimRepository) -> None:
    version = box.publish(repo)
    shown = box.public()
    assert version == repo.versions[layout.TIMESTAMP]
    assert all(repo.files[path] == body for path, body in shown.items() if path in repo.files)
    assert box.seen_by_a_new_node() == version
    assert [checked.view.roles[layout.TIMESTAMP].version for checked in box.shown] == [version]


def test_shown_files_are_readable_and_not_writable_by_anybody(
    box: Box, repo: SimRepository
) -> None:
    box.publish(repo)
    for path in (box.folder / "public").rglob("*"):
        wanted = 0o755 if path.is_dir() else 0o444
        assert path.stat().st_mode & 0o777 == wanted, path


def test_what_nobody_names_never_becomes_public(box: Box, repo: SimRepository) -> None:
    stray = layout.blob_file("aa" + "0" * 62)
    with box.inbox.upload("metadata/77.targets.json", offset=0) as upload:
        upload.append(b"stray")
        upload.finish()
    with pytest.raises(Refused):
        box.put(stray, b"other bytes")
    box.publish(repo)
    assert "metadata/77.targets.json" not in box.public()
    assert stray not in box.public()


def test_a_second_set_follows_and_old_files_stay(box: Box, repo: SimRepository) -> None:
    first = box.publish(repo)
    before = box.public()
    grow(repo)
    assert box.publish(repo) > first
    after = box.public()
    assert all(after[path] == body for path, body in before.items() if path != TIMESTAMP)
    assert box.seen_by_a_new_node() == repo.versions[layout.TIMESTAMP]


def test_publishing_the_same_set_again_is_fine(box: Box, repo: SimRepository) -> None:
    assert box.publish(repo) == box.publish(repo)


def test_an_expired_app_does_not_stop_the_others(tmp_path: Path, repo: SimRepository) -> None:
    repo.life["dev-shop"] = timedelta(seconds=-10)
    repo.touch("dev-shop")
    repo.publish()
    assert Box(tmp_path / "m", repo).publish(repo) == repo.versions[layout.TIMESTAMP]


def test_the_orphaned_work_of_stolen_keys_does_not_stop_the_news_of_it(
    box: Box, repo: SimRepository
) -> None:
    """`targets` has new keys for an app; nobody has signed its role with them yet."""
    repo.add_app("site")
    repo.set_plan(
        repo.add_release("site", {"code/main": b"site"}), canary=[next(iter(repo.nodes.values()))]
    )
    repo.publish()
    box.publish(repo)
    stolen = repo.sign_with["dev-shop"]
    repo.replace_keys("dev-shop", SimRepository().holders, threshold=2)
    repo.sign_with["dev-shop"] = stolen
    repo.touch("dev-site")
    repo.publish()
    version = box.publish(repo)
    assert version == repo.versions[layout.TIMESTAMP]
    shown = box.public()
    assert layout.metadata_file("dev-shop", repo.versions["dev-shop"]) not in shown
    assert layout.metadata_file("dev-site", repo.versions["dev-site"]) in shown
    assert layout.metadata_file("targets", repo.versions["targets"]) in shown


@pytest.mark.misuse
def test_a_fleet_role_without_its_threshold_is_not_shown_at_all(
    box: Box, repo: SimRepository, ablation: Ablation
) -> None:
    box.publish(repo)
    shown = box.public()
    repo.sign_with[FLEET] = repo.signers[FLEET][:1]
    repo.touch(FLEET)
    repo.publish()
    with pytest.raises(Refused):
        box.publish(repo)
    assert box.public() == shown
    with ablation("the threshold of the role") as attack:
        attack.without("embrasure.trust.workflow.vouching.check_enough")
        box.publish(repo)
        attack.succeeded(box.public() != shown)


@pytest.mark.misuse
def test_an_old_timestamp_is_refused(
    box: Box, repo: SimRepository, tmp_path: Path, ablation: Ablation
) -> None:
    old = dict(repo.files)
    grow(repo)
    box.publish(repo)
    shown = box.public()
    with pytest.raises(Refused) as caught:
        box.publisher.publish(old[TIMESTAMP])
    assert caught.value.reason == "rollback"
    assert box.public() == shown
    with ablation("the memory of what was shown") as attack:
        other = Box(tmp_path / "other", repo)
        newest = other.publish(repo)
        (tmp_path / "forgotten").mkdir(mode=0o700)
        other.publisher.client = TrustClient(tmp_path / "forgotten", repo.anchor)
        other.send(old)
        attack.succeeded(other.publisher.publish(old[TIMESTAMP]) < newest)


@pytest.mark.misuse
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", FLEET])
def test_metadata_that_somebody_else_signed_is_refused(
    box: Box, repo: SimRepository, role: str, ablation: Ablation
) -> None:
    box.publish(repo)
    shown = box.public()
    thief = SimRepository()
    repo.sign_with[role] = thief.holders[:2]
    repo.touch(role)
    grow(repo)
    with pytest.raises(Refused):
        box.publish(repo)
    assert box.public() == shown
    with ablation("the signatures") as attack:
        attack.without("embrasure.trust.workflow.vouching.check_enough")
        attack.without("tuf.api.metadata.Root.verify_delegate")
        box.publish(repo)
        attack.succeeded(box.public() != shown)


@pytest.mark.misuse
def test_a_set_that_lacks_a_blob_is_refused(
    box: Box, repo: SimRepository, ablation: Ablation
) -> None:
    lacking = next(path for path in repo.files if path.startswith("blobs/"))
    box.send({path: body for path, body in repo.files.items() if path != lacking})
    with pytest.raises(Refused) as caught:
        box.publisher.publish(repo.files[TIMESTAMP])
    assert caught.value.reason == "missing-file"
    assert box.public() == {}
    # The next try needs the blob alone, and the metadata again.
    assert box.publish(repo) == repo.versions[layout.TIMESTAMP]
    with ablation("the check of blobs") as attack:
        attack.without("mirror.publish.Publisher._check_blob")
        hole = Box(box.folder / "hole", repo)
        hole.send({path: body for path, body in repo.files.items() if path != lacking})
        hole.publisher.publish(repo.files[TIMESTAMP])
        attack.succeeded(hole.public() and lacking not in hole.public())


@pytest.mark.misuse
def test_a_blob_of_other_bytes_is_refused_and_dropped(
    box: Box, repo: SimRepository, ablation: Ablation
) -> None:
    path = next(path for path, body in repo.files.items() if path.startswith("blobs/") and body)
    with pytest.raises(Refused) as caught:
        box.put(path, b"x" * len(repo.files[path]))
    assert caught.value.reason == "bad-hash"
    assert box.inbox.held(path) == 0
    with ablation("the hash of what came") as attack:
        attack.without("mirror.inbox.digest_in", lambda path: None)
        box.put(path, b"x" * len(repo.files[path]))
        box.publish(repo)
        attack.succeeded(box.public()[path] != repo.files[path])


def test_half_a_file_that_a_crash_left_is_never_shown(box: Box, repo: SimRepository) -> None:
    """Its name is whole, its bytes are lost: the process that hashed it is gone."""
    box.send(repo.files)
    for path in ("blobs", "targets"):
        broken = next(p for p in (box.folder / "inbox" / path).rglob("*") if p.is_file())
        broken.write_bytes(b"")
    restarted = Box(box.folder, repo)
    with contextlib.suppress(Refused):
        restarted.publisher.publish(repo.files[TIMESTAMP])
    assert restarted.public() == {}
    assert restarted.publish(repo) == repo.versions[layout.TIMESTAMP]
    assert restarted.seen_by_a_new_node() == repo.versions[layout.TIMESTAMP]


def poison(box: Box, repo: SimRepository, version: str = "2.0") -> str:
    """Return the path of garbage in the inbox, which the mirror's own client holds honestly.

    The set was refused once, for a blob; what its client verified then, it keeps.
    """
    box.publish(repo)
    grow(repo, version)
    files = {path: body for path, body in repo.files.items() if not path.startswith("blobs/")}
    box.send(files)
    with pytest.raises(Refused):
        box.publisher.publish(repo.files[TIMESTAMP])
    path = layout.metadata_file("dev-shop", repo.versions["dev-shop"])
    box.put(path, b"garbage")
    return path


@pytest.mark.misuse
def test_a_file_swapped_after_it_was_verified_is_refused(
    box: Box, repo: SimRepository, ablation: Ablation
) -> None:
    with ablation("a client that remembers nothing") as attack:
        other = Box(box.folder / "other", repo)
        path = poison(other, repo, "3.0")
        attack.without(
            "mirror.verify.tempfile.TemporaryDirectory",
            lambda prefix: contextlib.nullcontext(str(other.folder / "tuf")),
        )
        other.publish(repo)
        attack.succeeded(other.public()[path] == b"garbage")
    path = poison(box, repo)
    with pytest.raises(Refused):
        box.publish(repo)
    assert path not in box.public()
    assert box.publish(repo) == repo.versions[layout.TIMESTAMP]


@pytest.mark.misuse
@pytest.mark.parametrize("spoil", ["garbage", "other"])
def test_a_target_file_of_other_bytes_is_refused(
    box: Box, repo: SimRepository, spoil: str, ablation: Ablation
) -> None:
    path = next(path for path in repo.files if "policy" in path)
    with pytest.raises(Refused) as caught:
        box.put(path, spoil.encode())
    assert caught.value.reason == "bad-hash"
    with ablation("the hash of what came") as attack:
        attack.without("mirror.inbox.digest_in", lambda path: None)
        box.put(path, spoil.encode())
        attack.succeeded(spoil.encode() in [f.read_bytes() for f in files_in(box.folder / "inbox")])


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_crash_at_any_step_leaves_what_was_shown_before(
    box: Box, repo: SimRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = box.publish(repo)
    grow(repo)
    box.send(repo.files)
    honest, done = Inbox.move, 0

    class Crash(Exception):
        pass

    for stop in (0, 1, 3, 6, 9, 1000):
        done = 0

        def move(inbox: Inbox, path: str, stop: int = stop) -> None:
            nonlocal done
            if done == stop:
                raise Crash
            done += 1
            honest(inbox, path)

        monkeypatch.setattr(Inbox, "move", move)
        try:
            box.send(repo.files)
            box.publisher.publish(repo.files[TIMESTAMP])
            break
        except Crash:
            assert box.seen_by_a_new_node() == first
    assert done > 5
    assert box.seen_by_a_new_node() == repo.versions[layout.TIMESTAMP]


@pytest.mark.parametrize(
    "path",
    [
        TIMESTAMP,
        "../outside",
        "metadata/../../x.json",
        "/etc/passwd",
        "metadata/0.root.json",
        "blobs/bb/aa" + "0" * 62,
        "targets/a/b.json",
        "metadata/1.root.json\n",
        "",
    ],
)
def test_a_path_outside_the_grammar_is_refused(box: Box, path: str) -> None:
    for ask in (box.inbox.held, lambda path: box.inbox.upload(path, offset=0).__enter__()):
        with pytest.raises(Refused) as caught:
            ask(path)
        assert caught.value.reason == "bad-path"


@pytest.mark.misuse
def test_a_shown_file_is_never_changed(box: Box, repo: SimRepository, ablation: Ablation) -> None:
    box.publish(repo)
    path = layout.metadata_file(layout.TARGETS, repo.versions[layout.TARGETS])
    assert box.inbox.held(path) is None
    with pytest.raises(Refused) as caught:
        box.put(path, b"other")
    assert caught.value.reason == "exists"
    with ablation("the refusal of what is held already") as attack:
        attack.without("mirror.inbox.Inbox.held", lambda *_: 0)
        box.put(path, b"other")
        waiting = [file.read_bytes() for file in files_in(box.folder / "inbox")]
        attack.succeeded(b"other" in waiting)


@pytest.mark.misuse
def test_an_endless_file_ends_at_its_bound(box: Box, ablation: Ablation) -> None:
    for path in ("metadata/9.targets.json", "metadata/9.dev-shop.json", "metadata/9.root.json"):
        piece = bytes(100_000)
        with (
            pytest.raises(Refused) as caught,
            box.inbox.upload(path, offset=0) as upload,
        ):
            for _ in range(bytes_allowed(path) // len(piece) + 1):
                upload.append(piece)
        assert caught.value.reason == "limit"
        held = box.inbox.held(path)
        assert held is not None
        assert held <= limits.ROOT_BYTES + limits.TARGETS_BYTES
    with ablation("the bound of a file") as attack:
        attack.without("mirror.inbox.bytes_allowed", lambda path: 10**9)
        with box.inbox.upload("metadata/8.targets.json", offset=0) as upload:
            for _ in range(2 * limits.TARGETS_BYTES // len(piece)):
                upload.append(piece)
        attack.succeeded((box.inbox.held("metadata/8.targets.json") or 0) > limits.TARGETS_BYTES)


def test_a_full_disk_takes_nothing_more(
    box: Box, repo: SimRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.publish(repo)
    shown = box.public()
    grow(repo)
    monkeypatch.setattr("mirror.inbox.free", lambda folder: Space(1000, 1000))
    with pytest.raises(Failed) as caught:
        box.publish(repo)
    assert caught.value.reason == "no-space"
    assert box.public() == shown


def test_a_broken_upload_goes_on_at_its_byte(box: Box, repo: SimRepository) -> None:
    path, body = next((p, b) for p, b in repo.files.items() if p.startswith("blobs/") and b)
    with box.inbox.upload(path, offset=0) as upload:
        upload.append(body[:7])
    assert box.inbox.held(path) == 7
    with pytest.raises(Refused) as caught, box.inbox.upload(path, offset=5):
        pass
    assert caught.value.reason == "bad-offset"
    with box.inbox.upload(path, offset=7) as upload:
        upload.append(body[7:])
        upload.finish()
    assert box.inbox.held(path) is None


def test_two_uploads_of_one_file_are_one_too_many(box: Box) -> None:
    path = layout.metadata_file(layout.TARGETS, 9)
    with (
        box.inbox.upload(path, offset=0),
        pytest.raises(Unavailable),
        box.inbox.upload(path, offset=0),
    ):
        pass
    with box.inbox.upload(path, offset=0) as upload:
        assert isinstance(upload, Upload)


def test_what_nobody_ever_named_is_swept_in_time(box: Box) -> None:
    box.put("metadata/9.targets.json", b"{}")
    assert box.inbox.sweep(before=0) == 0
    assert box.inbox.sweep(before=now().timestamp() + 60) == 1
    assert box.inbox.held("metadata/9.targets.json") == 0


@pytest.mark.misuse
def test_a_letterbox_takes_trust_files_and_nothing_else(
    tmp_path: Path, repo: SimRepository, ablation: Ablation
) -> None:
    scope = Scope(roles=(FLEET, layout.REVOCATIONS), needs=FLEET)
    letterbox = Box(tmp_path / "l", repo, scope)
    letterbox.publish(repo)
    shown = letterbox.public()
    assert not [path for path in shown if "shop" in path or "gates" in path or "blobs" in path]
    assert any(layout.REVOCATIONS in path for path in shown)
    for path in repo.files:
        if "shop" in path or "gates" in path or "blobs" in path:
            with pytest.raises(Refused):
                letterbox.put(path, repo.files[path])
    with ablation("the list of what a letterbox takes") as attack:
        mirror = Box(tmp_path / "m2", repo)
        mirror.send(repo.files)
        attack.succeeded([path for path in files_in(mirror.folder) if "shop" in path.name])


def test_a_start_knows_what_was_shown_before(box: Box, repo: SimRepository) -> None:
    assert box.publisher.shown_version() == 0
    assert held_documents(box.publisher.client, box.folder / "public", FLEET) == {}
    version = box.publish(repo)
    again = Box(box.folder, repo).publisher
    assert again.shown_version() == version
    documents = held_documents(again.client, box.folder / "public", FLEET)
    assert layout.policy_path("dev") in documents


def test_a_start_with_a_damaged_folder_believes_nothing_of_it(
    box: Box, repo: SimRepository
) -> None:
    box.publish(repo)
    for path in (box.folder / "public" / "targets").rglob("*.policy.json"):
        path.unlink()
    documents = held_documents(box.publisher.client, box.folder / "public", FLEET)
    assert list(documents) == [layout.revocations_path("dev")]


def flip(path: Path) -> None:
    """One bit of the file is another."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)


def test_verify_reads_all_and_finds_one_bit(tmp_path: Path, repo: SimRepository) -> None:
    folder = tmp_path / "m"
    make_service(folder, Authority(), repo.anchor)
    with pytest.raises(NotFound):
        verify_shown(folder)
    box = Box(folder, repo)
    box.publish(repo)
    report = verify_shown(folder)
    assert (report.timestamp, report.blobs) == (repo.versions[layout.TIMESTAMP], len(SHOP))
    assert report.blob_bytes == sum(map(len, SHOP.values()))
    blob = next(path for path in (folder / "public" / "blobs").rglob("*") if path.is_file()
                and path.stat().st_size > 10)  # fmt: skip
    flip(blob)
    with pytest.raises(Damaged) as caught:
        verify_shown(folder)
    assert caught.value.reason == "bad-hash"
    blob.unlink()
    with pytest.raises(Damaged):
        verify_shown(folder)


@pytest.mark.parametrize("kind", ["targets", "metadata"])
def test_verify_finds_one_bit_of_a_document(
    box: Box, repo: SimRepository, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "v"
    make_service(folder, Authority(), repo.anchor)
    shown = Box(folder, repo)
    shown.publish(repo)
    version = repo.versions["dev-shop"]
    name = f"{version}.dev-shop.json" if kind == "metadata" else "*.plan.json"
    flip(next((folder / "public" / kind).rglob(name)))
    with pytest.raises(EmbrasureError):
        verify_shown(folder)
