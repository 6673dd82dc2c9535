"""Floors under random histories and random bytes: they never fall but as TUF lets them."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.anchor import parse_anchor
from embrasure.trust.floors import AppFloor, Committed, Floors, FloorStore, TufFloors, Union
from embrasure.trust.workflow.versions import (
    after_reset,
    check_versions,
    plain,
    raised,
    time_floor,
)

ROLES = ("root", "timestamp", "snapshot", "targets", "dev-shop")
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
apps = st.from_regex(r"[a-z][a-z0-9-]{0,47}", fullmatch=True)
counts = st.integers(0, limits.MAX_INTEGER)
committed = st.builds(
    Committed,
    plan=digests,
    seq=st.integers(1, limits.MAX_INTEGER),
    ran=st.sampled_from(["main", "fallback"]),
    manifest=digests,
    wave=counts,
)
app_floors = st.builds(
    AppFloor,
    seen_seq=counts,
    seen_plan=digests | st.just(""),
    committed=committed | st.none(),
    previous=committed | st.none(),
    gate_seq=counts,
    gseq=counts,
    gate_digest=digests | st.just(""),
    tries=st.dictionaries(digests, counts, max_size=4),
)
entries = st.dictionaries(digests, st.integers(1, limits.MAX_INTEGER), max_size=3)
unions = st.builds(
    Union,
    plans=entries,
    manifests=entries,
    keys=entries,
    gateway_certs=entries,
    through=counts,
    holders=st.lists(digests, max_size=2).map(tuple),
)
floors_of_nodes = st.builds(
    Floors,
    tuf=st.dictionaries(apps, counts, max_size=4),
    time=counts,
    apps=st.dictionaries(apps, app_floors, max_size=3),
    oseq=st.dictionaries(digests, counts, max_size=3),
    union=unions,
    epoch=st.integers(1, 1000),
)
versions = st.dictionaries(st.sampled_from(ROLES), st.integers(1, 50), min_size=1)
key_sets = st.fixed_dictionaries(
    {role: st.frozensets(st.sampled_from("abc"), min_size=1) for role in ROLES}
)


@settings(max_examples=20, deadline=None)
@given(st.lists(floors_of_nodes, min_size=1, max_size=4), st.sampled_from(["a", "b", "none"]))
def test_any_floors_are_read_back_as_they_were_saved(saved: list[Floors], lost: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FloorStore(Path(folder) / "floors")
        store.create(saved[0])
        for floors in saved[1:]:
            store.save(floors)
        assert store.load() == saved[-1]
        if lost != "none":
            (store.folder / lost).write_bytes(b"")
            assert store.load() in saved[-2:]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_random_bytes_are_no_floors_and_no_other_error(one: bytes, two: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = FloorStore(Path(folder))
        for name, raw in (("a", one), ("b", two)):
            (store.folder / name).write_bytes(raw)
            (store.folder / name).chmod(0o600)
        with pytest.raises(Refused) as refused:
            store.load()
        assert refused.value.reason == "no-trust"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(versions, key_sets), max_size=8))
def test_a_floor_falls_only_when_a_key_was_taken_away(
    history: list[tuple[dict[str, int], dict[str, frozenset[str]]]],
) -> None:
    floors = TufFloors.first()
    for offered, keys in history:
        held = after_reset(floors, keys)
        online = any(
            not frozenset(floors.keys.get(role, ())) <= keys[role]
            for role in ("snapshot", "timestamp")
        )
        for role, version in floors.versions.items():
            own = not frozenset(floors.keys.get(role, ())) <= keys[role]
            if held.versions.get(role) != version:
                assert role != "root"
                assert online or own
        try:
            check_versions(held.versions, offered)
        except Refused:
            assert any(version < held.versions.get(role, 0) for role, version in offered.items())
            continue
        after = raised(held, offered, keys, time=0)
        assert all(after.versions[role] >= version for role, version in held.versions.items())
        assert all(after.versions[role] >= version for role, version in offered.items())
        assert after.versions.get("root", 0) >= floors.versions.get("root", 0)
        # A reset happens once: with the same keys nothing is lost again.
        assert after_reset(after, keys).versions == after.versions
        floors = after


@given(st.text())
def test_any_name_has_a_form_that_floors_can_hold(name: str) -> None:
    held = plain(name)
    assert held.isascii()
    assert 1 <= len(held) <= 128
    assert plain(held) == held


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2199, 1, 1)),
    st.datetimes(datetime(2020, 1, 1), datetime(2199, 1, 1)),
    st.integers(1, 14 * 86400),
)
def test_the_time_floor_is_never_far_above_the_clock(
    expires: datetime, clock: datetime, lifetime: int
) -> None:
    expires, clock = expires.replace(tzinfo=UTC), clock.replace(tzinfo=UTC)
    floor = time_floor(expires, lifetime_s=lifetime, clock=clock)
    assert floor <= (clock + timedelta(seconds=limits.SKEW_SECONDS)).timestamp()
    assert floor <= max(0, expires.timestamp())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_random_bytes_are_no_anchor_and_no_other_error(raw: bytes) -> None:
    with pytest.raises(Refused):
        parse_anchor(raw)
