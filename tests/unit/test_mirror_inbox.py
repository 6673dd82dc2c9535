"""What a mirror takes into its inbox: files by their grammar, bounded, whole, swept in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Failed, Refused, Unavailable
from embrasure.fs import Space
from embrasure.trust import layout
from mirror.inbox import TIMESTAMP, Upload, bytes_allowed
from mirror.publish import Scope
from tests.ablation import Ablation
from tests.simulate.mirrorbox import FLEET, Box, grow, published
from tests.simulate.repository import SimRepository


@pytest.fixture
def repo() -> SimRepository:
    return published()


@pytest.fixture
def box(tmp_path: Path, repo: SimRepository) -> Box:
    return Box(tmp_path / "m", repo)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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
