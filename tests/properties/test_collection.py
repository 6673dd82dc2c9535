"""Whatever is installed, pinned and under way: no collection takes away what may have to run."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embrasure import limits
from embrasure.bundle.store import BlobStore
from embrasure.bundle.twins import TWIN
from embrasure.errors import Misuse
from embrasure.trust.floors import AppFloor, Committed
from node import collection, pins
from node.paths import Paths
from node.states import Record, Release, State, release_name
from tests.ablation import Ablation
from tests.simulate.installer import SimInstaller
from tests.unit.node.records import make_record

APP = "shop"
HOUR = limits.BLOB_UNUSED_SECONDS


def release(number: int) -> Release:
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return Release(id=release_name(number, digest), plan="0" * 64, seq=number, manifest=digest,
                   wave=0)  # fmt: skip


def committed(number: int) -> Committed:
    one = release(number)
    return Committed(plan=one.plan, seq=number, ran="main", manifest=one.manifest, wave=0)


@dataclass(frozen=True)
class Case:
    """What is on a node: numbers of releases."""

    there: frozenset[int]
    linked: int | None
    committed: int | None
    previous: int | None
    back: int | None
    to: int
    ending: str
    pinned: frozenset[int]
    keep: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    there = draw(st.frozensets(st.integers(1, 30), min_size=1, max_size=9))
    one = st.sampled_from(sorted(there))
    some = st.none() | one
    return Case(
        there, draw(some), draw(some), draw(some), draw(some), draw(one),
        draw(st.sampled_from(["", "committed", "rolled_back", "rejected", "interrupted"])),
        draw(st.frozensets(one, max_size=3)), draw(st.integers(2, 4)),
    )  # fmt: skip


@contextmanager
def node(case: Case) -> Iterator[tuple[Paths, BlobStore]]:
    """The releases of the case, each of one blob of its own and one that all share."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        for each in paths.folders():
            each.mkdir(parents=True, exist_ok=True)
        blobs = BlobStore(paths.blobs)
        for number in case.there:
            where = paths.release(APP, release(number).id)
            where.mkdir(parents=True)
            files = [{"kind": "file", "sha256": put(blobs, data)} for data in contents(number)]
            (where / "manifest.json").write_text(json.dumps({"files": files}))
        put(blobs, b"of no release")
        blobs.sync()
        for number in case.pinned:
            pins.put(paths, APP, str(number))
        yield paths, blobs
        blobs.close()


def contents(number: int) -> tuple[bytes, bytes]:
    return b"own %d" % number, b"shared"


def put(blobs: BlobStore, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    with blobs.writer(digest, length=len(data)) as writer:
        writer.write(data[writer.offset :])
        writer.commit()
    return digest


def record(case: Case) -> Record:
    back = release(case.back) if case.back else None
    made = make_record(State.CLEANING)
    return msgspec.structs.replace(made, to=release(case.to), back=back, ending=case.ending)


def must_stay(case: Case) -> set[int]:
    """What the rule says, told once more by hand."""
    found = {case.linked, case.committed, case.previous, case.back, *case.pinned}
    if case.ending != "rejected":
        found.add(case.to)
    return {number for number in found if number}


def collected(paths: Paths, case: Case) -> set[int]:
    floor = AppFloor(
        committed=committed(case.committed) if case.committed else None,
        previous=committed(case.previous) if case.previous else None,
    )
    linked = release(case.linked).id if case.linked else None
    keep = collection.needed(record(case), floor, linked) | pins.pinned(paths, APP)
    left = collection.collect(paths, APP, keep=keep, most=case.keep)
    assert {path.name for path in paths.releases(APP).iterdir()} == set(left)
    return {int(name.partition("-")[0]) for name in left}


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_what_may_have_to_run_stays_with_its_blobs_and_the_rest_goes(case: Case) -> None:
    with node(case) as (paths, blobs):
        left = collected(paths, case)
        stay = must_stay(case)
        assert stay <= left
        assert len(left) == max(len(stay), min(case.keep, len(case.there)))
        spare = sorted(case.there - stay, reverse=True)
        assert left - stay == set(spare[: len(left - stay)]), "the newest ones"
        live = collection.live_blobs(paths, APP)
        assert blobs.sweep(live, unused_s=HOUR, now=time.time()) == 0, "not within the hour"
        blobs.sweep(live, unused_s=HOUR, now=time.time() + 2 * HOUR)
        for number in case.there:
            for data in contents(number):
                digest = hashlib.sha256(data).hexdigest()
                wanted = number in left or data == b"shared"
                assert blobs.has(digest, length=len(data)) == wanted
        assert not blobs.has(hashlib.sha256(b"of no release").hexdigest(), length=13)


EVERYTHING = Case(frozenset(range(1, 9)), 1, 2, 3, 4, 5, "", frozenset({6}), 2)


@pytest.mark.misuse
@pytest.mark.parametrize("guard", ["node.collection.needed", "node.pins.pinned"])
def test_without_the_rule_what_runs_is_collected(ablation: Ablation, guard: str) -> None:
    with node(EVERYTHING) as (paths, _):
        assert collected(paths, EVERYTHING) == must_stay(EVERYTHING) == {1, 2, 3, 4, 5, 6}
    with node(EVERYTHING) as (paths, _), ablation("the rule of what must stay") as attack:
        attack.without(guard, lambda *_: set())
        attack.succeeded(must_stay(EVERYTHING) - collected(paths, EVERYTHING))


@pytest.mark.misuse
def test_without_the_hour_a_commit_takes_what_another_install_has_fetched(
    ablation: Ablation,
) -> None:
    with node(EVERYTHING) as (paths, blobs):
        digest = hashlib.sha256(b"half of it").hexdigest()
        with blobs.writer(digest, length=10) as writer:
            writer.write(b"half")
        live = collection.live_blobs(paths, APP)
        assert blobs.sweep(live, unused_s=HOUR, now=time.time()) == 0
        assert blobs.held_bytes(digest) == 4
        with ablation("the hour") as attack:
            attack.without("embrasure.bundle.store.is_young", lambda *_: False)
            blobs.sweep(live, unused_s=HOUR, now=time.time())
            attack.succeeded(blobs.held_bytes(digest) == 0)


def test_a_pins_file_that_cannot_be_read_keeps_everything() -> None:
    with node(EVERYTHING) as (paths, _):
        paths.pins.write_text("{")
        assert pins.pinned(paths, APP) == {release(n).id for n in EVERYTHING.there}


def test_a_pin_is_of_a_release_that_is_here(tmp_path: Path) -> None:
    with node(EVERYTHING) as (paths, _):
        with pytest.raises(Misuse):
            pins.put(paths, APP, "99")
        assert pins.put(paths, APP, "7") == release(7).id
        assert release(7).id in pins.pinned(paths, APP)
        assert pins.take_away(paths, APP, release(7).id) == release(7).id
        with pytest.raises(Misuse):
            pins.take_away(paths, APP, "7")
        assert pins.pinned(paths, APP) == {release(6).id}


def test_an_executable_twin_lives_and_goes_with_its_blob(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest = put(blobs, b"#!/bin/sh\n")
    blobs.sync()
    with blobs.shelf(digest) as shelf:
        with blobs.twins() as twins:
            lent = twins.lend(digest, shelf)
            assert lent is not None
            assert lent[0].read(lent[1], limit=99) == b"#!/bin/sh\n"
            assert blobs.sweep({digest}) == 0, "somebody makes it"
            assert blobs.twins().lend(digest, shelf) is None, "he alone"
            assert not shelf.has(digest + TWIN)
        assert shelf.read(digest + TWIN, limit=99) == b"#!/bin/sh\n"
    assert blobs.sweep({digest}) == 0
    assert blobs.path(digest).with_name(digest + TWIN).exists()
    assert blobs.sweep(set()) == 2
    assert not blobs.path(digest).with_name(digest + TWIN).exists()
    blobs.close()


def test_a_second_name_that_a_crash_left_of_a_whole_blob_goes(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    digest = put(blobs, b"whole")
    blobs.sync()
    left = tmp_path / "blobs" / ".partial" / digest
    left.hardlink_to(blobs.path(digest))
    assert blobs.sweep({digest}) == 1
    assert not left.exists()
    assert blobs.has(digest, length=5)
    part = hashlib.sha256(b"partial").hexdigest()
    with blobs.writer(part, length=7) as writer:
        writer.write(b"par")
    assert blobs.sweep({digest, part}) == 0, "somebody goes on with it"
    blobs.close()


def test_what_is_missing_is_found_in_one_look(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    whole, pending = put(blobs, b"whole"), ""
    blobs.sync()
    pending = put(blobs, b"pending")
    part = hashlib.sha256(b"partial").hexdigest()
    with blobs.writer(part, length=7) as writer:
        writer.write(b"par")
    none = hashlib.sha256(b"none").hexdigest()
    wanted = {none: 4, whole: 5, part: 7, pending: 7}
    missing = blobs.missing(wanted)
    assert list(missing.items()) == [(none, 4), (part, 7)]
    assert blobs.still_to_come(missing) == 4 + 4
    assert blobs.missing({whole: 6}) == {whole: 6}, "another length is another blob"
    blobs.close()


def test_blobs_that_nothing_names_are_looked_for_now_and_then(tmp_path: Path) -> None:
    """An install does not look at each of thousands of blobs that cannot go yet."""
    with closing(SimInstaller(tmp_path)) as bench:
        stray = bench.paths.blobs / "00" / ("00" * 32)

        def installed(version: str) -> bool:
            """Return whether an old blob that nothing names is still here after an install."""
            stray.parent.mkdir(exist_ok=True)
            stray.write_bytes(b"")
            os.utime(stray, (0, 0))
            bench.publish(version)
            assert bench.poll() == "committed"
            return stray.exists()

        assert not installed("1.0"), "the first install of a process looks"
        assert installed("2.0")
        bench.clock.ahead += timedelta(seconds=limits.BLOB_SWEEP_SECONDS)
        assert not installed("3.0")
        bench.clock.ahead -= timedelta(seconds=60)
        assert not installed("4.0"), "a clock that was set back tells nothing"
