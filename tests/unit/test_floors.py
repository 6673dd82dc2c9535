"""Floors: two copies, repaired, never from zero."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from embrasure import fsops
from embrasure.errors import Denied, Failed, Refused
from embrasure.trust import floors as module
from embrasure.trust.floors import AppFloor, Committed, Floors, FloorStore, TufFloors, Union
from tests.ablation import Ablation
from tests.simulate.faults import Faults

A, B = "a" * 64, "b" * 64


def some(time: int = 1) -> Floors:
    done = Committed(plan=A, seq=4, ran="main", manifest=B, wave=2)
    app = AppFloor(seen_seq=4, seen_plan=A, committed=done, tries={A: 1}, gseq=9, gate_digest=B)
    floors = Floors.first(epoch=2, time=time).with_app("shop", app)
    return msgspec.structs.replace(
        floors, tuf={"root": 3, "dev-shop": 4}, oseq={A: 7}, union=Union(plans={B: 5}, through=5)
    )


@pytest.fixture
def store(tmp_path: Path) -> FloorStore:
    made = FloorStore(tmp_path / "floors")
    made.create(some())
    return made


def test_what_was_saved_is_what_is_loaded(store: FloorStore) -> None:
    assert store.load() == some()
    for time in range(2, 7):
        store.save(some(time))
        assert FloorStore(store.folder).load() == some(time)


def test_an_app_that_was_never_seen_has_an_empty_floor() -> None:
    assert Floors.first().app("shop") == AppFloor()
    assert some().app("shop").gseq == 9
    assert some().union.size() == 1


def test_floors_are_created_once(store: FloorStore) -> None:
    with pytest.raises(Refused) as refused:
        store.create(Floors.first())
    assert refused.value.reason == "exists"
    assert store.load() == some()


def test_a_store_without_files_has_no_trust_and_does_not_exist(tmp_path: Path) -> None:
    store = FloorStore(tmp_path / "none")
    assert not store.exists()
    for act in (store.load, lambda: store.save(some())):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.reason == "no-trust"


BAD = [b"", b"{}", b"\x00" * 500, b'{"counter":9,"floors":{},"sha256":"' + b"0" * 64 + b'"}']


@pytest.mark.parametrize("rubbish", BAD)
@pytest.mark.parametrize("name", ["a", "b"])
def test_one_bad_copy_is_repaired_from_the_other(
    store: FloorStore, name: str, rubbish: bytes
) -> None:
    store.save(some(2))
    store.save(some(3))  # both copies are newer than the first
    (store.folder / name).write_bytes(rubbish)
    kept = store.load()
    assert kept in (some(2), some(3))
    assert (store.folder / name).read_bytes() != rubbish
    # Repaired: now the other may be lost.
    other = "b" if name == "a" else "a"
    (store.folder / other).unlink()
    assert store.load() == kept


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_loss_of_either_copy_loses_nothing(store: FloorStore, name: str) -> None:
    for time in range(2, 9):
        store.save(some(time))
        (store.folder / name).write_bytes(b"")
        assert store.load() == some(time)


def test_a_save_replaces_the_bad_copy_before_the_good_one(store: FloorStore) -> None:
    store.save(some(2))
    (store.folder / "b").write_bytes(b"")
    with Faults() as faults:
        faults.arm()
        store.save(some(3))
    renamed = [Path(place).name for call, place in faults.trace if call == "rename"]
    assert renamed == ["b", "a"]
    assert store.load() == some(3)


@pytest.mark.misuse
def test_two_bad_copies_never_start_again_from_zero(store: FloorStore, ablation: Ablation) -> None:
    for name in ("a", "b"):
        (store.folder / name).write_bytes(b"")
    with pytest.raises(Refused) as refused:
        store.load()
    assert refused.value.reason == "no-trust"
    with pytest.raises(Refused):
        store.save(Floors.first())
    with ablation("the refusal to begin anew") as attack:
        # Without the rule (a store that begins anew) the floor of every app would be gone.
        for name in ("a", "b"):
            (store.folder / name).unlink()
        store.create(Floors.first())
        attack.succeeded(store.load().app("shop").seen_seq == 0)


@pytest.mark.misuse
def test_an_edited_copy_is_not_believed(store: FloorStore, ablation: Ablation) -> None:
    for time in (2, 3):
        store.save(some(time))
    raw = (store.folder / "a").read_bytes()
    lowered = raw.replace(b'"seen_seq":4', b'"seen_seq":1')
    assert lowered != raw
    (store.folder / "a").write_bytes(lowered)
    assert store.load().app("shop").seen_seq == 4
    with ablation("the digest of a copy") as attack:
        # The same edit without the hash: the lower floor is believed.
        sealed = module._encode(msgspec.structs.replace(some(9)), 99)
        (store.folder / "a").write_bytes(sealed.replace(b'"seen_seq":4', b'"seen_seq":1'))
        fake = sealed.split(b'"sha256":"')[1][:64].decode()
        attack.without("embrasure.trust.floors._hash", lambda counter, floors: fake)
        attack.succeeded(store.load().app("shop").seen_seq == 1)


def test_floors_that_others_can_read_are_denied(store: FloorStore) -> None:
    for name in ("a", "b"):
        (store.folder / name).chmod(0o644)
    with pytest.raises(Denied):
        store.load()


def test_a_link_in_place_of_a_copy_is_not_followed(store: FloorStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes((store.folder / "a").read_bytes())
    elsewhere.chmod(0o600)
    (store.folder / "a").unlink()
    (store.folder / "a").symlink_to(elsewhere)
    assert store.load() == some()
    assert not (store.folder / "a").is_symlink()


def test_metadata_floors_have_the_same_form(tmp_path: Path) -> None:
    store = module.PairStore(tmp_path / "tuf-floors", TufFloors)
    store.create(TufFloors.first())
    floors = TufFloors(versions={"root": 1}, keys={"root": (A,)}, complete={"root": 1}, time=5)
    store.save(floors)
    assert store.load() == floors


class Full:
    """A disk that takes so many new files beside what is there, no more."""

    def __init__(self, folder: Path, room: int) -> None:
        self._folder, self._most = folder, len(list(folder.iterdir())) + room

    def before(self, op: fsops.Op) -> int | None:
        if op.call == "create" and len(list(self._folder.iterdir())) >= self._most:
            raise OSError(errno.ENOSPC, "full")
        return None

    def after(self, op: fsops.Op, result: int) -> None:
        pass


def test_a_save_needs_no_more_than_one_new_file(store: FloorStore) -> None:
    """The ballast of a full disk is one: without floors there would be no way back."""
    with fsops.watched(Full(store.folder, 1)):
        store.save(some(7))
    assert FloorStore(store.folder).load() == some(7)
    with fsops.watched(Full(store.folder, 0)), pytest.raises(Failed, match="room on the disk"):
        store.save(some(8))
    assert FloorStore(store.folder).load() == some(7)
    assert len(list(store.folder.iterdir())) == 2


class Worn:
    """A disk that gives no file another name."""

    def before(self, op: fsops.Op) -> int | None:
        if op.call == "rename":
            raise OSError(errno.EIO, "worn out")
        return None

    def after(self, op: fsops.Op, result: int) -> None:
        pass


def test_a_save_that_a_disk_breaks_leaves_what_was(store: FloorStore) -> None:
    store.save(some(7))
    with fsops.watched(Worn()), pytest.raises(Failed) as broken:
        store.save(some(8))
    assert broken.value.reason == "io"
    assert FloorStore(store.folder).load() == some(7)
    assert len(list(store.folder.iterdir())) == 2
