"""The trust client against sources that go back: no version falls, but with its keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.ngclient import Updater

from embrasure import limits
from embrasure.errors import Refused
from embrasure.trust.client import TrustClient
from embrasure.trust.fetcher import SourceFetcher
from embrasure.trust.floors import TufFloors
from tests.ablation import Ablation
from tests.simulate.trustbench import ROLES, START, Bench, versions


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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
