"""What a mirror shows: whole verified sets and nothing else, whatever a stolen gateway sends."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from embrasure.errors import Damaged, EmbrasureError, NotFound, Refused
from embrasure.trust import layout
from mirror.audit import verify_shown
from mirror.inbox import TIMESTAMP
from mirror.publish import held_documents
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.mirrorbox import FLEET, SHOP, Box, grow, published
from tests.simulate.repository import SimRepository
from tests.simulate.uploader import make_service


@pytest.fixture
def repo() -> SimRepository:
    return published()


@pytest.fixture
def box(tmp_path: Path, repo: SimRepository) -> Box:
    return Box(tmp_path / "m", repo)


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
