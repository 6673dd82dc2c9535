"""The trust client: what a view is and costs, what is kept, and what nobody may have changed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from tuf.ngclient import Updater

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse, NotFound, Refused
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.plan import parse_plan
from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.repository import SimRepository
from tests.simulate.sources import DeadSource, MemorySource
from tests.simulate.trustbench import ROLES, Bench, versions


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_view_says_who_signed_which_version_of_what(bench: Bench) -> None:
    view = bench.refresh()
    assert view.fresh
    assert view.root_id == bench.repo.root_id
    shop = view.roles["dev-shop"]
    assert (shop.version, shop.threshold) == (1, 2)
    assert shop.signers == {bench.repo.people[name].key for name in ("anna", "ben")}
    assert shop.keys == shop.signers | {bench.repo.people["carl"].key}
    target = view.target("dev-shop", layout.plan_path("dev", "shop"))
    assert target is not None
    assert view.role("root") is not None
    assert view.role("prod-shop") is None


def test_a_disk_that_fails_anywhere_in_a_refresh_leaves_one_whole_view(bench: Bench) -> None:
    before, number = bench.refresh(), 0
    seen = [versions(before)]
    bench.gate(attempt=2)
    while True:
        number += 1
        with Faults(fail_at=number, error=errno.ENOSPC) as faults:
            client = bench.client()
            faults.arm()
            try:
                view = client.refresh(bench.source, roles=ROLES)
            except EmbrasureError as problem:
                assert problem.reason in ("no-space", "disk"), (number, problem)
                seen.append(versions(bench.client().held()))
            else:
                if faults.count < number:
                    break
    assert view.roles["gates-dev"].version == before.roles["gates-dev"].version + 1
    assert number > 10
    # The old one, then, once its link is on disk, the new one, and never the old one again.
    assert all(one in (versions(before), versions(view)) for one in seen)
    assert sorted(one["timestamp"] for one in seen) == [one["timestamp"] for one in seen]


@pytest.mark.parametrize(
    ("role", "is_approval"),
    [("dev-shop", True), ("fleet-dev", False), ("gates-dev", False), ("root", False), ("", False)],
)
def test_an_approval_role_is_known_by_its_name(role: str, is_approval: bool) -> None:
    assert layout.is_approval_role(role) is is_approval


def test_roles_that_nobody_lists_are_absent(bench: Bench) -> None:
    view = bench.refresh(roles=("dev-shop", "dev-none", "fleet-prod"))
    assert set(view.roles) == {"root", "timestamp", "snapshot", "targets", "dev-shop"}


def test_every_role_of_the_snapshot_is_there_when_no_names_are_given(bench: Bench) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=None)
    assert set(client.listed(view)) == {"dev-shop", "fleet-dev", "gates-dev", "revocations"}
    assert set(client.listed(view)) < set(view.roles)


def test_a_cold_start_and_an_idle_poll_cost_few_requests(bench: Bench) -> None:
    client = bench.client()
    first = client.refresh(bench.source, roles=ROLES)
    assert len(bench.source.asked) == 8
    bench.source.asked.clear()
    assert client.refresh(bench.source, roles=ROLES) is first
    assert client.refresh(bench.source, roles=("dev-shop",)) is first
    assert bench.source.asked == ["metadata/timestamp.json", "metadata/2.root.json"] * 2
    bench.source.asked.clear()
    bench.refresh()  # another process
    assert bench.source.asked == ["metadata/2.root.json", "metadata/timestamp.json"]
    bench.source.asked.clear()
    bench.gate()
    client.refresh(bench.source, roles=ROLES)
    assert len(bench.source.asked) == 4  # root, timestamp, snapshot, gates


def test_targets_are_verified_kept_and_then_need_no_source(bench: Bench) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=ROLES)
    path = layout.plan_path("dev", "shop")
    raw = client.target(view, "dev-shop", path, bench.source, limit=limits.PLAN_BYTES)
    assert parse_plan(raw) == bench.plan
    again = bench.client()
    assert again.target(again.held(), "dev-shop", path, None, limit=limits.PLAN_BYTES) == raw
    with pytest.raises(NotFound):
        client.target(view, "dev-shop", "dev/shop/m-none.json", bench.source, limit=10)
    with pytest.raises(NotFound):
        client.target(view, "gates-dev", layout.gate_path("dev", "shop"), None, limit=10_000)


def test_keys_and_bytes_of_a_role_come_from_the_view(bench: Bench) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=ROLES)
    repo = bench.repo
    assert set(client.keys(view, "gates-dev")) == {repo.signers["gates-dev"][0].public_key.keyid}
    assert set(client.keys(view, "timestamp")) == {repo.signers["timestamp"][0].public_key.keyid}
    assert set(client.keys(view, "dev-shop")) == view.roles["dev-shop"].keys
    assert client.keys(view, "dev-none") == {}
    assert client.role_bytes(view, "dev-shop") == repo.files["metadata/1.dev-shop.json"]
    with pytest.raises(Misuse):
        bench.client().role_bytes(view, "dev-shop")


def test_what_was_verified_can_be_read_without_any_network(bench: Bench) -> None:
    fresh = bench.refresh()
    bench.time.pass_(days=400)  # everything has expired: boot needs no server
    held = bench.client().held()
    assert not held.fresh
    assert dict(held.roles) == dict(fresh.roles)
    assert held.roles["timestamp"].expires < bench.time.at


def test_nothing_held_is_no_trust(bench: Bench) -> None:
    with pytest.raises(Refused) as refused:
        bench.client().held()
    assert refused.value.reason == "no-trust"
    assert bench.refused(DeadSource()).reason == "unavailable"
    with pytest.raises(Refused):
        bench.client().held()


@pytest.mark.misuse
def test_a_target_with_other_bytes_is_refused(bench: Bench, ablation: Ablation) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=ROLES)
    path = layout.plan_path("dev", "shop")
    target = view.target("dev-shop", path)
    assert target is not None
    where = layout.target_file(path, target.sha256)
    honest = bench.repo.files[where]
    cases = ((honest[:-1] + b"!", "bad-hash"), (honest + b"!", "limit"), (honest[:-1], "cut-off"))
    for raw, reason in cases:
        forged = MemorySource({**bench.repo.files, where: raw})
        with pytest.raises(EmbrasureError) as refused:
            client.target(view, "dev-shop", path, forged, limit=limits.PLAN_BYTES)
        assert refused.value.reason == reason
    forged = MemorySource({**bench.repo.files, where: cases[0][0]})
    with ablation("the length and the digest") as attack:
        attack.without("embrasure.trust.client.check_target", lambda *a, **k: None)
        attack.succeeded(client.target(view, "dev-shop", path, forged, limit=99_999) == cases[0][0])


def test_a_target_over_its_limit_is_refused_before_a_byte_is_fetched(bench: Bench) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=ROLES)
    bench.source.asked.clear()
    with pytest.raises(Refused) as refused:
        client.target(view, "dev-shop", layout.plan_path("dev", "shop"), bench.source, limit=5)
    assert refused.value.reason == "limit"
    assert bench.source.asked == []


def test_a_damaged_document_on_disk_is_fetched_again(bench: Bench) -> None:
    client = bench.client()
    view = client.refresh(bench.source, roles=ROLES)
    path = layout.plan_path("dev", "shop")
    raw = client.target(view, "dev-shop", path, bench.source, limit=limits.PLAN_BYTES)
    (stored,) = (bench.folder / "documents").iterdir()
    for damage in (b"", raw[:-1], raw[:-1] + b"!", raw + b"!"):
        stored.write_bytes(damage)
        again = client.target(view, "dev-shop", path, bench.source, limit=limits.PLAN_BYTES)
        assert again == raw == stored.read_bytes()


@pytest.mark.misuse
def test_metadata_edited_on_disk_is_not_shown_as_held(bench: Bench, ablation: Ablation) -> None:
    bench.refresh()
    before = {p.name: p.read_bytes() for p in (bench.folder / "complete").glob("*.json")}
    bench.gate()
    bench.refresh()
    for name, raw in before.items():
        path = bench.folder / "complete" / name
        if not path.is_symlink():
            path.write_bytes(raw)  # an old, once valid state: a restored backup
    with pytest.raises(Refused) as refused:
        bench.client().held()
    assert refused.value.reason == "no-trust"
    with ablation("the floors at a look at the disk") as attack:
        attack.without("embrasure.trust.client.check_held")
        attack.succeeded(bench.client().held().roles["timestamp"].version == 2)
    (bench.folder / "complete" / "snapshot.json").write_bytes(b"{}")
    with pytest.raises(Refused):
        bench.client().held()


def test_a_role_that_was_not_refreshed_lately_is_left_out_of_what_is_held(bench: Bench) -> None:
    bench.refresh()
    bench.gate()
    bench.refresh(roles=("fleet-dev", "dev-shop"))
    assert set(bench.client().held().roles) >= {"fleet-dev", "dev-shop", "revocations"}
    assert bench.client().held().role("gates-dev") is None


def test_stock_python_tuf_would_have_trusted_its_cached_root(tmp_path: Path) -> None:
    """Why the anchor is always given: `bootstrap=None` believes whatever root.json says."""
    stranger = SimRepository()
    (tmp_path / "root.json").write_bytes(stranger.anchor)
    Updater(str(tmp_path), "metadata/", bootstrap=None)
    client = TrustClient(tmp_path / "tuf", SimRepository().anchor)
    with pytest.raises(Refused):
        client.refresh(stranger.source(), roles=())
