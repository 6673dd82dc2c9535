"""Strange deliveries: each is refused by its own reason, and nothing of it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Timestamp

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import EmbrasureError, Misuse, NotFound, Refused, Unavailable
from embrasure.trust import layout
from embrasure.trust.carry import carried, documents_of, lay_down
from embrasure.trust.door import Door, Taken, _Work
from embrasure.trust.listing import (
    GivenSource,
    TrustFolderSource,
    check_trust_path,
    read_listing,
    write_listing,
)
from embrasure.trust.offline import Offline, next_root, verify_role
from embrasure.trust.trust_document import check_document
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.doors import newest_files, real_bundle
from tests.simulate.sources import DeadSource
from tests.simulate.trustbench import Bench

AUTHORITY = Authority()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.repo.set_bundle(real_bundle(made.repo, AUTHORITY))
    made.repo.publish()
    made.refresh()
    return made


def door(bench: Bench) -> Door:
    return Door(bench.client(), env="dev", node=bench.node.id)


def take(bench: Bench, files: dict[str, bytes]) -> Taken:
    return door(bench).take(GivenSource(files))


def refused(bench: Bench, files: dict[str, bytes]) -> str:
    with pytest.raises(EmbrasureError) as found:
        take(bench, files)
    return found.value.reason


class Listed:
    """Files under a listing of one's own."""

    def __init__(self, files: dict[str, bytes], **roles: int) -> None:
        self._source = GivenSource(files)
        self._listing = write_listing({name.replace("_", "-"): v for name, v in roles.items()})

    def fetch(self, path: str, *, offset: int, limit: int) -> object:
        if path == layout.TRUST_LISTING:
            return iter([self._listing])
        return self._source.fetch(path, offset=offset, limit=limit)


def test_a_listed_file_that_is_not_there_is_missing(bench: Bench) -> None:
    found = door(bench).take(Listed({}, root=3, targets=9, revocations=7))  # type: ignore[arg-type]  # a source
    assert set(found.missing) == {
        "metadata/2.root.json", "metadata/9.targets.json", "metadata/7.revocations.json",
    }  # fmt: skip
    assert not found.roles


class Breaks(Listed):
    """A listing, and then nothing more."""

    def fetch(self, path: str, *, offset: int, limit: int) -> object:
        if path == layout.TRUST_LISTING:
            return super().fetch(path, offset=offset, limit=limit)
        return DeadSource().fetch(path, offset=offset, limit=limit)


def test_a_source_that_breaks_ends_the_delivery(bench: Bench) -> None:
    with pytest.raises(Unavailable):
        door(bench).take(DeadSource())
    with pytest.raises(Unavailable):
        door(bench).take(Breaks({}, targets=9, revocations=9))  # type: ignore[arg-type]  # a source


@pytest.mark.misuse
def test_a_root_with_other_targets_keys_takes_away_what_the_old_ones_vouched_for(
    bench: Bench, ablation: Ablation
) -> None:
    """Stolen targets keys end with the root step alone, before the new targets are there."""
    assert door(bench).newest().version("fleet-dev") > 0
    bench.repo.replace_keys("targets", [CryptoSigner.generate_ed25519()])
    bench.repo.publish()
    root = {path: raw for path, raw in newest_files(bench.repo).items() if ".root." in path}
    source = GivenSource(root)
    with ablation("the second look at what is held, under the new root") as attack:
        attack.without("embrasure.trust.door._still_vouched", lambda held: held)
        work = _Work(source, read_listing(source), door(bench).newest(), now())
        work.walk()
        attack.succeeded(work.held.version("targets") and work.held.version("fleet-dev"))
    work = _Work(source, read_listing(source), door(bench).newest(), now())
    work.walk()
    assert not work.held.version("targets") and not work.held.version("fleet-dev")
    assert take(bench, root).roles == {"root": 2}
    held = door(bench).newest()
    assert held.targets is None and held.version("fleet-dev") == 0


def test_a_file_under_another_number_is_refused(bench: Bench) -> None:
    raw = bench.repo.files[layout.metadata_file("targets", bench.repo.versions["targets"])]
    assert refused(bench, {"metadata/99.targets.json": raw}) == "bad-metadata"


def test_a_fleet_that_targets_do_not_delegate_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.folder = tmp_path / "fresh"
    raw = bench.repo.files[layout.metadata_file("fleet-dev", bench.repo.versions["fleet-dev"])]
    assert refused(bench, {"metadata/2.fleet-dev.json": raw}) == "bad-metadata"


def test_a_fleet_without_a_policy_is_refused(bench: Bench) -> None:
    bench.repo.drop_target("fleet-dev", layout.policy_path("dev"))
    bench.repo.publish()
    assert refused(bench, newest_files(bench.repo)) == "bad-metadata"


def test_a_policy_alone_is_not_there_yet(bench: Bench) -> None:
    bench.repo.set_policy(denials_reset_through=4)
    bench.repo.publish()
    files = newest_files(bench.repo)
    only = {path: raw for path, raw in files.items() if not path.startswith("targets/fleet/")}
    assert len(take(bench, only).missing) == 1


def test_a_document_that_is_too_large_or_strange_is_refused(bench: Bench) -> None:
    path = layout.policy_path("dev")
    bench.repo.list_target("fleet-dev", path, b" " * (limits.DOOR_DOCUMENT_BYTES + 1))
    bench.repo.publish()
    assert refused(bench, newest_files(bench.repo)) == "limit"
    with pytest.raises(Refused) as strange:
        check_document("fleet/dev/other.json", b"{}", root="0" * 64)
    assert strange.value.reason == "not-trust"


def test_documents_and_roots_that_are_not_on_this_disk_are_not_found(bench: Bench) -> None:
    mine = door(bench)
    held = mine.newest()
    with pytest.raises(NotFound):
        mine.document(held, "fleet-dev", "fleet/dev/none.json")
    with pytest.raises(NotFound):
        mine.root(7)
    assert mine.role_view(held, "fleet-prod") is None
    view = mine.role_view(held, "revocations")
    assert view is not None and (view.version, view.threshold) == (1, 1)
    assert held.threshold("fleet-prod") == 0 and held.listed("fleet-prod") == {}


def test_metadata_of_another_type_or_size_is_refused(bench: Bench) -> None:
    targets = door(bench).newest().targets
    assert targets is not None
    stamp = bench.repo.files["metadata/timestamp.json"]
    for raw, role, reason in (
        (stamp, "fleet-dev", "bad-metadata"),
        (b" " * (limits.DELEGATED_BYTES + 1), "fleet-dev", "limit"),
        (bench.repo.files["metadata/1.fleet-dev.json"], "fleet-none", "bad-metadata"),
    ):
        with pytest.raises(Refused) as found:
            verify_role(raw, role, targets)
        assert found.value.reason == reason
    with pytest.raises(Refused) as large:
        next_root(object(), b" " * (limits.ROOT_BYTES + 1))  # type: ignore[arg-type]  # not looked at
    assert large.value.reason == "limit"
    with pytest.raises(Refused):
        _ = Offline({"root": Timestamp()}, {}).root
    assert Offline({"root": Root()}, {}).targets is None


def test_a_root_on_disk_that_does_not_follow_is_passed_over(bench: Bench) -> None:
    bench.repo.touch("root")
    bench.repo.publish()
    assert take(bench, newest_files(bench.repo)).roles == {"root": 2}
    current = bench.client().workflow.generations.linked("current")
    assert current is not None
    file = current / "root_history" / "2.root.json"
    assert door(bench).newest().version("root") == 2 and door(bench).is_ahead()
    assert door(bench).root(2) == file.read_bytes() == bench.repo.files["metadata/2.root.json"]
    file.write_bytes(b"{}")
    assert door(bench).newest().version("root") == 1
    # The floor has not fallen: the same delivery repairs it, an older world does not come back.
    assert take(bench, newest_files(bench.repo)).roles == {"root": 2}


def test_a_given_file_is_cut_at_its_limit_and_a_strange_path_is_no_trust_file() -> None:
    source = GivenSource({"metadata/2.root.json": b"abc"})
    with pytest.raises(Refused):
        list(source.fetch("metadata/2.root.json", offset=0, limit=2))
    assert b"".join(source.fetch("metadata/2.root.json", offset=1, limit=2)) == b"bc"
    with pytest.raises(Refused):
        check_trust_path("metadata/timestamp.json")


def test_what_is_carried_is_whole_or_said_to_lack(bench: Bench, tmp_path: Path) -> None:
    bench.repo.touch("root")
    bench.repo.publish()
    folder = bench.repo.write(tmp_path / "repository")
    files = carried(folder)
    assert "metadata/2.root.json" in files
    (tmp_path / "stick").mkdir()
    lay_down(files, tmp_path / "stick")
    lay_down(files, tmp_path / "stick")
    assert door(bench).take(TrustFolderSource(tmp_path / "stick")).roles == {"root": 2}
    policy = next(path for path in files if path.endswith(".policy.json"))
    (folder / policy).unlink()
    assert set(files) - set(carried(folder)) == {policy}
    with pytest.raises(Refused):
        documents_of(b"{}", "targets")
    (tmp_path / "empty" / "metadata").mkdir(parents=True)
    with pytest.raises(NotFound):
        carried(tmp_path / "empty")
    with pytest.raises(NotFound):
        list(TrustFolderSource(folder).fetch("metadata/77.root.json", offset=0, limit=9))


def test_deliveries_name_their_targets_strictly(tmp_path: Path) -> None:
    from pki.deliver import caller_of, parse_target

    assert parse_target("mirror/m1@10.0.0.5:1").role == "mirror"
    assert parse_target(str(tmp_path)).address == ""
    for text in ("gateway/g1@10.0.0.5:1", "m1@10.0.0.5:1", str(tmp_path / "none")):
        with pytest.raises(Misuse):
            parse_target(text)
    with pytest.raises(Misuse):
        caller_of({}, None, ())
    with pytest.raises(Misuse):
        caller_of({}, tmp_path, ())
