"""The metadata door: what it takes, what it never takes, and what its files are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from embrasure.errors import EmbrasureError, Refused
from embrasure.secret.keys import OpeningKey
from embrasure.trust import layout
from embrasure.trust.directory import Recovery
from embrasure.trust.documents import write
from embrasure.trust.door import Door, Taken
from embrasure.trust.listing import GivenSource, TrustFolderSource, is_trust_path, read_listing
from embrasure.trust.offline import check_newer, newest, verify_role
from embrasure.trust.policy import parse_policy
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.doors import given, newest_files, real_bundle
from tests.simulate.trustbench import Bench

AUTHORITY = Authority()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.repo.set_bundle(real_bundle(made.repo, AUTHORITY))
    made.repo.publish()
    made.refresh()
    return made


def door(bench: Bench, *, node: bool = True) -> Door:
    return Door(bench.client(), env="dev", node=bench.node.id if node else "")


def files_of(bench: Bench) -> dict[str, bytes]:
    return newest_files(bench.repo)


def take(bench: Bench, files: dict[str, bytes]) -> Taken:
    return door(bench).take(GivenSource(files))


def refused(bench: Bench, files: dict[str, bytes]) -> EmbrasureError:
    with pytest.raises(EmbrasureError) as found:
        take(bench, files)
    return found.value


def role_path(bench: Bench, role: str) -> str:
    return layout.metadata_file(role, bench.repo.versions[role])


def test_its_stamp_changes_with_what_was_taken_or_verified(bench: Bench) -> None:
    stamps = [door(bench).stamp(), door(bench).stamp()]
    bench.repo.set_policy(denials_reset_through=3)
    bench.repo.publish()
    take(bench, files_of(bench))
    stamps.append(door(bench).stamp())
    bench.refresh()
    stamps.append(door(bench).stamp())
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3


# --- what counts at once ---------------------------------------------------------------------


def test_what_is_held_already_is_nothing_new(bench: Bench) -> None:
    assert take(bench, files_of(bench)) == Taken({})
    assert not door(bench).is_ahead()


def test_a_newer_fleet_counts_at_once_and_an_older_snapshot_is_refused_from_then_on(
    bench: Bench,
) -> None:
    before = bench.repo.frozen_source()
    bench.repo.set_policy(denials_reset_through=3)
    bench.repo.publish()
    assert take(bench, files_of(bench)).roles == {"fleet-dev": bench.repo.versions["fleet-dev"]}
    mine = door(bench)
    policy = mine.document(mine.newest(), "fleet-dev", layout.policy_path("dev"))
    assert parse_policy(policy).denials_reset_through == 3
    assert mine.is_ahead()
    assert bench.refused(before).reason == "rollback"
    bench.refresh()
    assert not door(bench).is_ahead()
    # A second delivery changes nothing.
    assert take(bench, files_of(bench)) == Taken({})


@pytest.mark.parametrize("node", [True, False], ids=["node", "mirror"])
def test_a_fleet_with_a_recovery_recipient_passes_the_door(bench: Bench, node: bool) -> None:
    key = OpeningKey.generate().public(epoch=1)
    found = Recovery(v=1, type="recovery", root=bench.repo.root_id, env="dev", hpke=key)
    bench.repo.list_target("fleet-dev", layout.recovery_path("dev"), write(found))
    bench.repo.publish()
    taken = door(bench, node=node).take(GivenSource(files_of(bench)))
    assert taken.roles == {"fleet-dev": bench.repo.versions["fleet-dev"]}


def test_revocations_count_at_once_and_no_snapshot_has_to_wait_for_them(bench: Bench) -> None:
    before = bench.repo.frozen_source()
    bench.repo.revoke(plans=["a" * 64])
    bench.repo.publish()
    assert "revocations" in take(bench, files_of(bench)).roles
    # The thief of a gateway keeps them back, and the fleet goes on; they stay.
    assert bench.refresh(before).roles["revocations"].version < bench.repo.versions["revocations"]
    assert door(bench).newest().version("revocations") == bench.repo.versions["revocations"]
    assert not door(bench).is_ahead()


def test_roots_are_walked_step_by_step_and_reset_what_stolen_online_keys_burnt(
    bench: Bench,
) -> None:
    repo = bench.repo
    repo.versions["timestamp"] = repo.versions["snapshot"] = 10**8
    repo.publish()
    bench.refresh()
    for role in ("timestamp", "snapshot"):
        repo.versions[role] = 0
        repo.replace_keys(role, [CryptoSigner.generate_ed25519()])
    repo.publish()
    repo.touch("root")
    repo.publish()
    assert take(bench, files_of(bench)).roles == {"root": 3}
    assert bench.client().workflow.floors().versions.get("timestamp", 0) == 0
    assert bench.refresh().roles["timestamp"].version == 2


def test_a_lost_on_call_key_is_gone_with_its_newest_file(bench: Bench) -> None:
    repo = bench.repo
    repo.versions["revocations"] = 999_999_998
    repo.revoke(plans=["b" * 64])
    repo.publish()
    take(bench, files_of(bench))
    repo.replace_keys("revocations", [CryptoSigner.generate_ed25519()])
    repo.versions["revocations"] = 6
    repo.revoke()
    repo.publish()
    files = files_of(bench)
    del files["metadata/999999999.revocations.json"]
    files["metadata/7.revocations.json"] = repo.files["metadata/7.revocations.json"]
    assert take(bench, files).roles == {"targets": repo.versions["targets"], "revocations": 7}
    assert door(bench).newest().version("revocations") == 7


def test_documents_that_are_missing_are_named_and_can_follow(bench: Bench) -> None:
    bench.repo.set_policy(denials_reset_through=2)
    bench.repo.publish()
    files = files_of(bench)
    path = layout.policy_path("dev")
    file = layout.target_file(path, bench.repo.roles["fleet-dev"].targets[path].hashes["sha256"])
    policy = files.pop(file)
    assert take(bench, files) == Taken({}, (file,))
    assert take(bench, {**files, file: policy}).roles == {
        "fleet-dev": bench.repo.versions["fleet-dev"]
    }


def test_a_letterbox_needs_every_shard_and_a_node_its_own(bench: Bench) -> None:
    bench.repo.set_policy(shards=16)
    bench.repo.publish()
    files = files_of(bench)
    own = {layout.shard_path("dev", name) for name in ("00",)}
    fleet = bench.repo.roles["fleet-dev"].targets
    shards = [p for p in fleet if "/dir/" in p and p not in own]
    for path in shards:
        files.pop(layout.target_file(path, fleet[path].hashes["sha256"]), None)
    whole = Door(bench.client(), env="dev").take(GivenSource(files))
    assert not whole.roles and len(whole.missing) >= 10
    for path in shards:
        file = layout.target_file(path, fleet[path].hashes["sha256"])
        files[file] = bench.repo.files[file]
    assert Door(bench.client(), env="dev").take(GivenSource(files)).roles


def test_a_folder_is_a_source_like_any_other(bench: Bench, tmp_path: Path) -> None:
    bench.repo.revoke(plans=["c" * 64])
    bench.repo.publish()
    folder = bench.repo.write(tmp_path / "stick")
    assert read_listing(TrustFolderSource(folder))["revocations"] == 2
    assert door(bench).take(TrustFolderSource(folder)).roles == {"revocations": 2}


# --- what never counts -----------------------------------------------------------------------


@pytest.mark.misuse
def test_an_older_file_is_refused_while_the_held_one_is_vouched_for(
    bench: Bench, ablation: Ablation
) -> None:
    old = files_of(bench)
    bench.repo.set_policy(denials_reset_through=1)
    bench.repo.publish()
    take(bench, files_of(bench))
    assert refused(bench, old).reason == "rollback"
    with ablation("the comparison with the version that is held") as attack:
        targets = door(bench).newest().targets
        assert targets is not None
        # It still verifies in every other way.
        path = next(p for p in old if p.endswith(".fleet-dev.json"))
        found = verify_role(old[path], "fleet-dev", targets)
        attack.succeeded(found.version < bench.repo.versions["fleet-dev"])
    with pytest.raises(Refused):
        check_newer("fleet-dev", found.version, floor=bench.repo.versions["fleet-dev"])


@pytest.mark.misuse
@pytest.mark.parametrize("role", ["targets", "fleet-dev", "revocations"])
def test_an_unsigned_file_is_refused(bench: Bench, ablation: Ablation, role: str) -> None:
    held = bench.repo.versions[role]
    bench.repo.sign_with[role] = [CryptoSigner.generate_ed25519()]
    bench.repo.touch(role)
    bench.repo.publish()
    assert refused(bench, files_of(bench)).reason == "threshold"
    assert door(bench).newest().version(role) == held
    with ablation("the threshold of signatures") as attack:
        raw = bench.repo.files[role_path(bench, role)]
        attack.succeeded(Metadata.from_bytes(raw).signed.version > held)


@pytest.mark.misuse
def test_a_root_step_that_the_old_keys_did_not_sign_is_refused(
    bench: Bench, ablation: Ablation
) -> None:
    bench.repo.sign_with["root"] = [CryptoSigner.generate_ed25519() for _ in range(3)]
    bench.repo.touch("root")
    bench.repo.publish()
    assert refused(bench, files_of(bench)).reason == "threshold"
    assert door(bench).newest().version("root") == 1
    with ablation("the walk from the anchor on") as attack:
        # Who takes the newest root for the anchor believes anybody.
        raw = bench.repo.files["metadata/2.root.json"]
        attack.succeeded(Metadata.from_bytes(raw).signed.version == 2)


@pytest.mark.misuse
def test_an_expired_file_is_refused(bench: Bench, ablation: Ablation) -> None:
    bench.repo.life["revocations"] = timedelta(days=1)
    bench.repo.revoke(plans=["d" * 64])
    bench.repo.publish()
    files = files_of(bench)
    bench.time.pass_(days=2)
    assert refused(bench, files).reason == "expired"
    with ablation("the check of its expiry") as attack:
        attack.without("embrasure.trust.door.check_fresh")
        attack.succeeded("revocations" in take(bench, files).roles)


@pytest.mark.misuse
def test_documents_of_another_fleet_or_form_are_refused(bench: Bench, ablation: Ablation) -> None:
    bench.repo.set_policy(root="0" * 64)
    bench.repo.publish()
    assert refused(bench, files_of(bench)).reason == "identity"
    with ablation("the check of each document") as attack:
        attack.without("embrasure.trust.door.check_document")
        attack.succeeded("fleet-dev" in take(bench, files_of(bench)).roles)


@pytest.mark.misuse
def test_plans_gates_and_online_roles_are_no_trust_files(bench: Bench, ablation: Ablation) -> None:
    stopped = [path for path in bench.repo.files if not is_trust_path(path)]
    assert {path.partition("/")[0] for path in stopped} == {"metadata", "targets", "blobs"}
    roles = {path.rpartition("/")[2].split(".")[-2] for path in stopped if "metadata" in path}
    assert roles == {"snapshot", "timestamp", "dev-shop", "gates-dev"}
    bench.repo.set_gate(bench.plan)
    bench.repo.publish()
    # Whatever lies in a source, only the offline roles are asked for.
    every = dict(bench.repo.files)
    assert take(bench, every).roles == {}
    with ablation("the list of what is a trust file") as attack:
        targets = door(bench).newest().targets
        assert targets is not None
        raw = bench.repo.files[role_path(bench, "gates-dev")]
        attack.succeeded(verify_role(raw, "gates-dev", targets).version >= 2)


def test_one_bad_role_stops_no_other(bench: Bench) -> None:
    bench.repo.revoke(plans=["e" * 64])
    bench.repo.sign_with["fleet-dev"] = [CryptoSigner.generate_ed25519()]
    bench.repo.touch("fleet-dev")
    bench.repo.publish()
    found = take(bench, files_of(bench))
    assert set(found.roles) == {"revocations"}
    assert {role: problem.reason for role, problem in found.refused.items()} == {
        "fleet-dev": "threshold"
    }


def test_files_edited_on_disk_count_as_none(bench: Bench) -> None:
    bench.repo.set_policy(denials_reset_through=1)
    bench.repo.publish()
    take(bench, files_of(bench))
    file = door(bench).folder / "fleet-dev.json"
    file.write_bytes(file.read_bytes().replace(b'"version": 5', b'"version": 99'))
    file.write_bytes(b"{}" + file.read_bytes())
    assert door(bench).newest().version("fleet-dev") < bench.repo.versions["fleet-dev"]
    # The floor remembers, and the same delivery repairs it.
    assert take(bench, files_of(bench)).roles == {"fleet-dev": bench.repo.versions["fleet-dev"]}


def test_a_fresh_client_takes_all_from_the_anchor_on(bench: Bench, tmp_path: Path) -> None:
    bench.folder = tmp_path / "fresh"
    assert set(take(bench, files_of(bench)).roles) == {"targets", "fleet-dev", "revocations"}
    found = newest(bench.repo.anchor, door(bench)._held.files, env="dev")
    assert found.version("targets") == bench.repo.versions["targets"]
    assert given(bench.repo) is not None


def test_a_refresh_while_files_are_read_has_them_read_again(bench: Bench) -> None:
    take(bench, files_of(bench))
    bench.refresh()
    bench.repo.touch("fleet-dev")
    bench.repo.publish()
    done: list[int] = []

    def also(role: str, version: int) -> list[bytes]:
        if not done:
            done.append(version)
            bench.refresh()
        return []

    wanted = bench.repo.versions["fleet-dev"]
    assert door(bench).newest(also).version("fleet-dev") == wanted


class Slow(GivenSource):
    """A source that lets something else happen while its revocations are being read."""

    def __init__(self, files: dict[str, bytes], meanwhile: Callable[[], object]) -> None:
        super().__init__(files)
        self._meanwhile = meanwhile

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        if path.endswith(".revocations.json"):
            self._meanwhile()
        yield from super().fetch(path, offset=offset, limit=limit)


@pytest.mark.misuse
def test_an_older_delivery_that_ends_later_takes_no_denial_back(
    bench: Bench, ablation: Ablation
) -> None:
    """Two processes share a door: a service, and a person's `mirror trust` from an old stick."""
    old, (one, other) = bench.repo, (door(bench), door(bench))
    old.revoke(plans=["a" * 64])
    old.publish()
    older = files_of(bench)
    old.revoke(plans=["b" * 64])
    old.publish()
    newest_ = files_of(bench)
    last = bench.repo.versions["revocations"]
    assert one.take(Slow(older, lambda: other.take(GivenSource(newest_)))).roles == {}
    assert door(bench).newest().version("revocations") == last
    with ablation("the look at what another process has taken") as attack:
        attack.without("embrasure.trust.door.later", lambda _, mine: mine)
        (one.folder / "revocations.json").unlink()
        one.take(Slow(older, lambda: other.take(GivenSource(newest_))))
        attack.succeeded(door(bench).newest().version("revocations") == last - 1)
