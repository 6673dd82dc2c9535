"""The trust client against sources that replay, freeze, mix, truncate, never end, or are slow."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater

from embrasure import limits
from embrasure.errors import EmbrasureError, Misuse, NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.client import TrustClient
from embrasure.trust.fetcher import SourceFetcher
from embrasure.trust.floors import TufFloors
from embrasure.trust.plan import parse_plan
from embrasure.trust.view import View
from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.repository import SimRepository
from tests.simulate.sources import BrokenSource, DeadSource, EndlessSource, MemorySource

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROLES = ("fleet-dev", "revocations", "gates-dev", "dev-shop")


@dataclass(slots=True)
class Time:
    """A clock that tests set."""

    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def pass_(self, **spans: float) -> None:
        self.at += timedelta(**spans)


class Bench:
    """A repository with one app, and a client folder."""

    def __init__(self, folder: Path) -> None:
        self.time = Time()
        self.repo = SimRepository(clock=self.time)
        self.node = self.repo.add_node(labels={"tier": "web"})
        self.repo.add_app("shop")
        self.release = self.repo.add_release("shop")
        self.plan = self.repo.set_plan(self.release, canary=[self.node])
        self.repo.set_gate(self.plan)
        self.repo.publish()
        self.folder = folder / "tuf"
        self.source = self.repo.source()

    def client(self) -> TrustClient:
        return TrustClient(self.folder, self.repo.anchor, clock=self.time)

    def refresh(self, source: object = None, roles: tuple[str, ...] = ROLES) -> View:
        """A new process each time: nothing but the disk is remembered."""
        return self.client().refresh(source or self.source, roles=roles)  # type: ignore[arg-type]  # any source

    def refused(self, source: object = None, roles: tuple[str, ...] = ROLES) -> EmbrasureError:
        with pytest.raises(EmbrasureError) as found:
            self.refresh(source, roles)
        return found.value

    def gate(self, **changes: int) -> None:
        self.repo.set_gate(self.plan, **changes)  # type: ignore[arg-type]  # open_wave, attempt
        self.repo.publish()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def versions(view: View) -> dict[str, int]:
    return {name: role.version for name, role in view.roles.items()}


# --- honest ----------------------------------------------------------------------------------


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


# --- rollback --------------------------------------------------------------------------------


@pytest.mark.misuse
def test_a_mirror_cannot_go_back_to_what_it_showed_before(bench: Bench, ablation: Ablation) -> None:
    old = bench.repo.frozen_source()
    bench.gate()
    newest = versions(bench.refresh())
    assert bench.refused(old).reason == "rollback"
    assert versions(bench.refresh()) == newest
    with ablation("the memory of what was seen") as attack:
        # A client without memory takes the old one: it is the memory that refuses.
        fresh = TrustClient(bench.folder.parent / "other", bench.repo.anchor, clock=bench.time)
        attack.succeeded(
            fresh.refresh(old, roles=ROLES).roles["timestamp"].version < newest["timestamp"]
        )


@pytest.mark.misuse
def test_emptied_cache_files_do_not_open_the_way_back(bench: Bench, ablation: Ablation) -> None:
    old = bench.repo.frozen_source()
    bench.gate()
    bench.refresh()
    for name in ("timestamp", "snapshot", "targets", "gates-dev"):
        (bench.folder / "current" / f"{name}.json").write_bytes(b"")  # what a power cut leaves
    assert bench.refused(old).reason == "rollback"
    before = bench.client().workflow.floors()
    assert before.versions["timestamp"] == 3
    with ablation("our own floors") as attack:
        # Without our floors python-tuf alone accepts the old repository.
        attack.without("embrasure.trust.workflow.session.check_versions", lambda *a: None)
        attack.succeeded(bench.refresh(old).roles["timestamp"].version == 2)


def test_a_lost_metadata_folder_is_fetched_again_but_never_older(bench: Bench) -> None:
    old = bench.repo.frozen_source()
    bench.gate()
    newest = versions(bench.refresh())
    (bench.folder / "current").unlink()
    (bench.folder / "current").symlink_to("trusted/999")
    assert bench.refused(old).reason == "rollback"
    assert versions(bench.refresh()) == newest


@pytest.mark.misuse
def test_lost_floors_are_never_started_again_from_zero(bench: Bench, ablation: Ablation) -> None:
    old = bench.repo.frozen_source()
    bench.gate()
    bench.refresh()
    for name in ("a", "b"):
        (bench.folder / "tuf-floors" / name).unlink()
    assert bench.refused(old).reason == "no-trust"
    assert bench.refused().reason == "no-trust"
    with ablation("the refusal to begin anew") as attack:
        # Had they been created anew, the emptied cache would have let the old repository in.
        bench.client().workflow.store.create(TufFloors.first())
        (bench.folder / "current").unlink()
        attack.succeeded(bench.refresh(old).roles["timestamp"].version == 2)


def test_an_enrolled_machine_does_not_begin_with_an_empty_folder(bench: Bench) -> None:
    client = TrustClient(bench.folder, bench.repo.anchor, clock=bench.time, enrolled=True)
    with pytest.raises(Refused) as refused:
        client.refresh(bench.source, roles=ROLES)
    assert refused.value.reason == "no-trust"


def test_one_damaged_copy_of_the_floors_is_repaired(bench: Bench) -> None:
    bench.refresh()
    (bench.folder / "tuf-floors" / "a").write_bytes(b"")
    bench.gate()
    bench.refresh()
    assert (bench.folder / "tuf-floors" / "a").read_bytes() != b""


def test_first_floors_of_an_enrolment_answer_hold_at_once(bench: Bench) -> None:
    client = bench.client()
    client.raise_floors(versions={"fleet-dev": 9}, time=int(START.timestamp()) - 60)
    assert bench.refused().reason == "rollback"
    assert bench.client().workflow.floors().time == int(START.timestamp()) - 60
    client.raise_floors(time=int(START.timestamp()) + 10**9)  # a clock that jumped to 2057
    assert bench.client().workflow.floors().time <= START.timestamp() + limits.SKEW_SECONDS


@pytest.mark.misuse
def test_a_snapshot_cannot_hide_a_role_that_was_seen(bench: Bench, ablation: Ablation) -> None:
    bench.refresh()
    (bench.folder / "current" / "snapshot.json").write_bytes(b"")
    del bench.repo.roles["gates-dev"]  # a thief of snapshot and timestamp leaves it out
    bench.repo.publish()
    found = bench.refused()
    assert (found.reason, found.thing) == ("rollback", "gates-dev version")
    with ablation("the memory of what was seen") as attack:
        # Nobody who has not seen it is told that something is missing.
        fresh = TrustClient(bench.folder.parent / "other", bench.repo.anchor, clock=bench.time)
        attack.succeeded(fresh.refresh(bench.source, roles=ROLES).role("gates-dev") is None)


# --- freeze, clock ---------------------------------------------------------------------------


@pytest.mark.misuse
def test_a_frozen_mirror_is_refused_when_its_timestamp_expires(
    bench: Bench, ablation: Ablation
) -> None:
    frozen = bench.repo.frozen_source()
    bench.refresh()
    bench.time.pass_(hours=23)
    bench.refresh(frozen)
    bench.time.pass_(hours=2)
    assert bench.refused(frozen).reason == "expired"
    with ablation("the clock") as attack:
        # The only guard is time: with the clock of yesterday the same bytes pass.
        fresh = TrustClient(bench.folder.parent / "other", bench.repo.anchor, clock=lambda: START)
        attack.succeeded(fresh.refresh(frozen, roles=ROLES).roles["timestamp"].version == 2)


@pytest.mark.misuse
def test_a_clock_set_back_does_not_bring_old_metadata_to_life(
    bench: Bench, ablation: Ablation
) -> None:
    bench.refresh()
    bench.time.pass_(days=2)
    bench.gate()
    bench.refresh()
    floor = bench.client().workflow.floors().time
    assert floor == int(bench.time.at.timestamp())
    bench.time.at = START - timedelta(days=400)
    bench.gate()  # signed for 24 h from the false clock on: long expired
    assert bench.refused().reason == "expired"
    assert bench.client().workflow.floors().time == floor
    with ablation("the floor of the time") as attack:
        attack.without(
            "embrasure.trust.workflow.session.Workflow.now", lambda self, floors: self.clock()
        )
        held = bench.refresh().roles["timestamp"].expires
        attack.succeeded(held.timestamp() < floor)  # long dead by any honest clock


def test_a_signer_whose_clock_jumped_does_not_brick_a_node(bench: Bench) -> None:
    bench.repo.life["timestamp"] = timedelta(days=365 * 70)
    bench.gate()
    bench.refresh()
    assert bench.client().workflow.floors().time <= START.timestamp() + limits.SKEW_SECONDS
    bench.repo.life.clear()
    bench.time.pass_(hours=1)
    bench.gate()
    bench.refresh()


@pytest.mark.parametrize("role", ["root", "snapshot", "targets", "dev-shop", "gates-dev"])
def test_each_role_expires_by_itself(bench: Bench, role: str) -> None:
    bench.repo.life[role] = timedelta(hours=1)
    bench.repo.touch(role)
    bench.repo.publish()
    bench.refresh()
    bench.time.pass_(hours=1)
    bench.repo.publish() if role != "snapshot" else None
    assert bench.refused().reason == "expired"


@pytest.mark.misuse
def test_an_expired_app_does_not_stop_a_mirror_but_stops_a_node(
    bench: Bench, ablation: Ablation
) -> None:
    bench.repo.life["dev-shop"] = timedelta(hours=1)
    bench.repo.touch("dev-shop")
    bench.repo.publish()
    bench.time.pass_(hours=2)
    client = bench.client()
    for _ in range(2):
        view = client.refresh(bench.source, roles=None, tolerate_expired=True)
        assert view.roles["dev-shop"].expires < bench.time.at
    with pytest.raises(Refused) as refused:
        client.refresh(bench.source, roles=ROLES)
    assert refused.value.reason == "expired"
    with ablation("the refusal of expired roles") as attack:
        view = client.refresh(bench.source, roles=ROLES, tolerate_expired=True)
        attack.succeeded(view.roles["dev-shop"].expires < bench.time.at)
    bench.time.pass_(hours=23)  # now the timestamp too: tolerated by nobody
    with pytest.raises(Refused):
        client.refresh(bench.source, roles=None, tolerate_expired=True)


def test_expiry_is_checked_also_when_nothing_changed(bench: Bench) -> None:
    client = bench.client()
    client.refresh(bench.source, roles=ROLES)
    bench.time.pass_(hours=25)
    with pytest.raises(Refused) as refused:
        client.refresh(bench.source, roles=ROLES)
    assert refused.value.reason == "expired"


# --- mix and match, signatures ---------------------------------------------------------------


@pytest.mark.misuse
def test_files_of_two_moments_do_not_mix(bench: Bench, ablation: Ablation) -> None:
    bench.refresh()
    files = dict(bench.repo.files)
    bench.gate()
    mixed = {**bench.repo.files, "metadata/3.gates-dev.json": files["metadata/2.gates-dev.json"]}
    assert bench.refused(MemorySource(mixed)).reason == "rollback"
    bench.gate()
    snapshot = {**bench.repo.files, "metadata/4.snapshot.json": files["metadata/2.snapshot.json"]}
    assert bench.refused(MemorySource(snapshot)).reason == "rollback"
    bench.refresh()  # the honest ones still pass
    with ablation("the version in the snapshot") as attack:
        # Each file alone is whole, and signed by who may sign it.
        top = Metadata[Targets].from_bytes(files["metadata/1.targets.json"]).signed
        old = Metadata[Targets].from_bytes(files["metadata/2.gates-dev.json"])
        top.verify_delegate("gates-dev", old.signed_bytes, old.signatures)
        attack.succeeded(old.signed.version == 2)


@pytest.mark.misuse
def test_fewer_signatures_than_the_threshold_are_refused(bench: Bench, ablation: Ablation) -> None:
    repo = bench.repo
    repo.set_plan(bench.release, canary=[bench.node], by=("anna",))
    repo.publish()
    assert bench.refused().reason == "threshold"
    repo.sign_with["dev-shop"] = [repo.people["anna"].signer] * 2  # the same person twice
    repo.touch("dev-shop")
    repo.publish()
    assert bench.refused().reason == "threshold"
    outsider = repo.person("mallory").signer
    repo.sign_with["dev-shop"] = [repo.people["anna"].signer, outsider]
    repo.touch("dev-shop")
    repo.publish()
    assert bench.refused().reason == "threshold"
    with ablation("the count of signatures") as attack:
        attack.without("embrasure.trust.workflow.vouching.check_enough")
        attack.succeeded(len(bench.refresh().roles["dev-shop"].signers) == 1)


@pytest.mark.misuse
def test_one_key_under_two_ids_is_one_signer(bench: Bench, ablation: Ablation) -> None:
    repo = bench.repo
    repo.touch("targets")
    anna = repo.people["anna"].signer
    twin = CryptoSigner(anna._private_key, public_key=alias(anna))
    repo.replace_keys("dev-shop", [anna, twin], threshold=2)
    repo.publish()
    assert bench.refused().reason == "threshold"
    with ablation("each key once in a role") as attack:
        attack.without("embrasure.trust.workflow.updater.check_keys", lambda *a: None)
        attack.succeeded(len(bench.refresh().roles["dev-shop"].signers) == 2)


def alias(signer: CryptoSigner) -> SSlibKey:
    """The same public key under another id."""
    key = signer.public_key
    return SSlibKey("f" * 64, key.keytype, key.scheme, dict(key.keyval))


def test_a_role_speaks_only_for_its_own_paths(bench: Bench) -> None:
    bench.repo.list_target("dev-shop", "fleet/dev/policy.json", b"{}")
    bench.repo.list_target("dev-shop", "dev/shop/deep/er.json", b"{}")
    bench.repo.publish()
    view = bench.refresh()
    assert view.target("dev-shop", "fleet/dev/policy.json") is None
    assert view.target("dev-shop", "dev/shop/deep/er.json") is None
    assert view.target("fleet-dev", "fleet/dev/policy.json") is not None


def test_another_fleet_s_repository_is_refused(bench: Bench) -> None:
    other = SimRepository(clock=bench.time)
    assert bench.refused(other.source()).reason == "threshold"


@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/2.targets.json"])
@pytest.mark.parametrize("rubbish", [b"", b"{", b"[" * 100_000, b'{"signed":{}}', b"\xff" * 64])
def test_rubbish_is_refused_with_a_reason(bench: Bench, path: str, rubbish: bytes) -> None:
    found = bench.refused(MemorySource({**bench.repo.files, path: rubbish}))
    assert isinstance(found, Refused)
    assert found.reason in ("bad-metadata", "limit")


# --- root and keys ---------------------------------------------------------------------------


def test_the_root_is_walked_step_by_step_and_kept(bench: Bench) -> None:
    bench.refresh()
    for _ in range(3):
        bench.repo.touch("root")
        bench.repo.publish()
    assert bench.refresh().roles["root"].version == 4
    bench.source.asked.clear()
    bench.refresh()
    assert [path for path in bench.source.asked if "root" in path] == ["metadata/5.root.json"]


def test_a_root_step_that_the_old_keys_did_not_sign_is_refused(bench: Bench) -> None:
    bench.refresh()
    stranger = SimRepository(clock=bench.time)
    stranger.touch("root")
    stranger.publish()
    forged = {**bench.repo.files, "metadata/2.root.json": stranger.files["metadata/2.root.json"]}
    assert bench.refused(MemorySource(forged)).reason == "threshold"
    assert bench.refresh().roles["root"].version == 1


@pytest.mark.misuse
def test_a_hidden_root_step_is_noticed(bench: Bench, ablation: Ablation) -> None:
    bench.repo.touch("root")
    bench.repo.publish()
    bench.refresh()
    (bench.folder / "current" / "root_history" / "2.root.json").write_bytes(b"")
    files = {k: v for k, v in bench.repo.files.items() if k != "metadata/2.root.json"}
    found = bench.refused(MemorySource(files))
    assert (found.reason, found.thing) == ("rollback", "root version")
    with ablation("our own floors") as attack:
        attack.without("embrasure.trust.workflow.session.check_versions", lambda *a: None)
        attack.succeeded(bench.refresh(MemorySource(files)).roles["root"].version == 1)


def test_root_steps_survive_a_refresh_that_fails_later(bench: Bench) -> None:
    bench.refresh()
    bench.repo.touch("root")
    bench.repo.publish()
    broken = {**bench.repo.files}
    del broken["metadata/timestamp.json"]
    assert isinstance(bench.refused(MemorySource(broken)), NotFound)
    assert (bench.folder / "current/root_history/2.root.json").exists()
    assert bench.client().workflow.floors().versions["root"] == 2
    # What was complete before is still what `held` shows.
    assert bench.client().held().roles["root"].version == 1
    assert bench.refresh().roles["root"].version == 2


def test_a_disk_without_room_for_a_root_step_is_called_that(bench: Bench) -> None:
    """It was `bad-metadata`: the step was verified in memory, and its file was missed later."""
    bench.refresh()
    bench.repo.touch("root")
    bench.repo.publish()
    reasons, number = set[str](), 0
    while True:
        number += 1
        with Faults(fail_at=number, error=errno.ENOSPC, lasting=True) as faults:
            client = bench.client()
            faults.arm()
            try:
                client.refresh(bench.source, roles=ROLES)
                break
            except EmbrasureError as problem:
                reasons.add(problem.reason)
    assert number > 10 and reasons == {"no-space"}
    assert bench.refresh().roles["root"].version == 2


def test_a_disk_that_did_not_take_a_root_step_once_keeps_nothing_of_that_walk(
    tmp_path: Path,
) -> None:
    def refreshed(name: str, fail_at: int) -> tuple[Bench, list[str]]:
        bench = Bench(tmp_path / name)
        bench.refresh()
        bench.repo.touch("root")
        bench.repo.publish()
        with Faults(fail_at=fail_at, error=errno.ENOSPC) as faults:
            client = bench.client()
            faults.arm()
            client.refresh(bench.source, roles=ROLES)
        return bench, [path for _, path in faults.trace]

    _, paths = refreshed("whole", 0)
    step = next(n for n, path in enumerate(paths, 1) if path.endswith("/2.root.json"))
    with pytest.raises(EmbrasureError) as found:
        refreshed("once", step)
    assert found.value.reason == "no-space"
    assert not list((tmp_path / "once").rglob("2.root.json"))


def test_more_root_steps_than_allowed_take_two_refreshes(bench: Bench) -> None:
    for _ in range(limits.ROOT_STEPS + 3):
        bench.repo.touch("root")
        bench.repo.publish()
    assert bench.refresh().roles["root"].version == limits.ROOT_STEPS + 1
    assert bench.refresh().roles["root"].version == limits.ROOT_STEPS + 4


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_new_online_keys_let_their_versions_fall_again(bench: Bench, role: str) -> None:
    repo = bench.repo
    repo.versions["timestamp"] = repo.versions["snapshot"] = 10**8  # what a thief may have signed
    repo.publish()
    bench.refresh()
    for name in ("timestamp", "snapshot"):
        repo.versions[name] = 0
    repo.publish()
    assert bench.refused().reason == "rollback"
    for name in {role, "timestamp"}:
        repo.replace_keys(name, [CryptoSigner.generate_ed25519()])
    if role == "timestamp":
        repo.versions["snapshot"] = 10**8
    repo.publish()
    assert bench.refresh().roles["timestamp"].version <= 2
    # Only once: the next step back under the same key is refused again.
    repo.publish()
    bench.refresh()
    repo.versions["timestamp"] = 0
    repo.publish()
    assert bench.refused().reason == "rollback"


def test_a_new_key_of_one_role_resets_that_floor_only(bench: Bench) -> None:
    bench.refresh()
    floors = bench.client().workflow.floors().versions
    bench.repo.replace_keys("gates-dev", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()
    bench.repo.touch("dev-shop")
    bench.refresh()
    after = bench.client().workflow.floors()
    assert after.versions["dev-shop"] == floors["dev-shop"]
    assert after.keys["gates-dev"] == (bench.repo.signers["gates-dev"][0].public_key.keyid,)


@pytest.mark.misuse
def test_a_role_begins_again_only_when_a_key_of_it_was_taken_away(
    bench: Bench, ablation: Ablation
) -> None:
    bench.repo.versions["revocations"] = 999_999_998
    bench.repo.revoke(plans=["a" * 64])
    bench.repo.publish()
    bench.refresh()
    # The same keys, a lower number: refused, although no snapshot is asked about it any more.
    bench.repo.versions["revocations"] = 6
    bench.repo.revoke()
    bench.repo.publish()
    assert (bench.refused().reason, bench.refused().thing) == ("rollback", "revocations version")
    with ablation("our own floor of the role") as attack:
        # python-tuf alone, whose snapshot is gone, takes what the thief of a gateway shows.
        folder = bench.folder.parent / "stock"
        folder.mkdir()
        stock = Updater(
            str(folder), "metadata/", fetcher=SourceFetcher(bench.source),
            bootstrap=bench.repo.anchor,
        )  # fmt: skip
        stock._trusted_set.reference_time = bench.time()
        stock.refresh()
        attack.succeeded(stock._trusted_set.snapshot.meta["revocations.json"].version == 7)
    bench.repo.replace_keys("revocations", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()
    assert bench.refresh().roles["revocations"].version == 8


# --- bytes -----------------------------------------------------------------------------------


@pytest.mark.misuse
@pytest.mark.parametrize(
    "path", ["metadata/2.root.json", "metadata/timestamp.json", "metadata/1.dev-shop.json"]
)
def test_data_without_end_is_cut_off(bench: Bench, path: str, ablation: Ablation) -> None:
    endless = EndlessSource(bench.repo.source(), path)
    assert bench.refused(endless).reason == "limit"
    assert endless.sent <= limits.ROOT_BYTES + 2 * 4096
    with ablation("the cut in the reader") as attack:
        # What such a source goes on to send to whoever keeps reading.
        pieces = endless.fetch(path, offset=0, limit=1)
        got = sum(len(piece) for piece, _ in zip(pieces, range(1000), strict=False))
        attack.succeeded(got > limits.ROOT_BYTES)


@pytest.mark.misuse
def test_a_source_that_drips_is_given_up(bench: Bench, ablation: Ablation) -> None:
    ticks = iter(range(0, 10**9, 7))  # each look at the clock is 7 s later

    @dataclass
    class Dripping:
        def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
            for byte in b"".join(bench.source.fetch(path, offset=offset, limit=limit)):
                yield bytes([byte])

    client = TrustClient(
        bench.folder, bench.repo.anchor, clock=bench.time, ticks=lambda: float(next(ticks))
    )
    with pytest.raises(Unavailable) as slow:
        client.refresh(Dripping(), roles=ROLES)
    assert slow.value.reason == "slow"
    with ablation("the time for a whole file") as attack:
        attack.without("embrasure.trust.fetcher.timed", lambda pieces, **options: iter(pieces))
        attack.succeeded(client.refresh(Dripping(), roles=ROLES).roles["root"].version == 1)


def test_a_cut_line_is_an_error_and_not_a_short_file(bench: Bench) -> None:
    broken = BrokenSource(bench.repo.source(), "metadata/1.dev-shop.json", 100)
    assert isinstance(bench.refused(broken), Unavailable)
    bench.refresh()


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
