"""The trust client against sources that mix and forge: thresholds, paths, steps of the root."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Targets

from embrasure import limits
from embrasure.errors import EmbrasureError, NotFound, Refused
from tests.ablation import Ablation
from tests.simulate.faults import Faults
from tests.simulate.repository import SimRepository
from tests.simulate.sources import MemorySource
from tests.simulate.trustbench import ROLES, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


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
