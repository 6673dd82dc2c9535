"""Sets that a mirror refuses: old, forged, incomplete, swapped after the look, cut by a crash."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from embrasure.errors import Refused
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from mirror.inbox import TIMESTAMP, Inbox
from tests.ablation import Ablation
from tests.simulate.mirrorbox import FLEET, Box, grow, published
from tests.simulate.repository import SimRepository


@pytest.fixture
def repo() -> SimRepository:
    return published()


@pytest.fixture
def box(tmp_path: Path, repo: SimRepository) -> Box:
    return Box(tmp_path / "m", repo)


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
