"""Keyholders of any role come, go and are replaced; clients on the old root walk to the new."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from embrasure import limits
from embrasure.clock import Clock
from embrasure.errors import Denied, Misuse, Refused
from embrasure.trust import policy
from pki import keyholders, possession, signers, signing, verify, walk
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.keyholders import Seats
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import sign, sign_and_merge
from tests.simulate.ceremony_keys import joining, new_keyholder, proof, seated


def change(
    trust: TrustFolder, roles: list[str], what: Seats, ticking: Clock, *, force: bool = False
) -> list[str]:
    made, _ = keyholders.change(trust, roles, what, force=force, clock=ticking)
    return [draft.role for draft in made]


def sign_by(trust: TrustFolder, folder: Path, *names: str, at: datetime) -> None:
    """Sign each draft that these new keys count for."""
    for name in names:
        opened = signers.open_key(f"keyfile:{folder}/{name}.key", ceremony.source())
        for draft in trust.drafts():
            reviewed = signing.review(draft, pinned=trust.root_id, at=at)
            if signing.may_sign(reviewed, opened.header):
                signing.sign(reviewed, opened)


def merge(trust: TrustFolder, at: datetime) -> list[str]:
    merged, waiting = signing.merge_ready(trust, at=at)
    assert not waiting
    return merged


def test_a_keyholder_is_added_to_root_and_targets_and_signs_the_next_one(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", at=at)
    assert change(shop, ["root", "targets"], Seats(join=join, proofs=proofs), ticking) == ["root"]
    (draft,) = shop.drafts()
    text = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "<dave>" in text and "nothing proves" not in text
    sign_and_merge(shop, "alice", "bob", at=at)
    assert seated(shop, "root") == seated(shop, "targets") == ["alice", "bob", "carl", "dave"]
    assert {one.role for one in shop.verify(at)} == {
        "root", "targets", "revocations", "fleet-prod"
    }  # fmt: skip
    (shop.path / "public" / "dave.pub").read_bytes()


def test_more_keys_than_the_threshold_are_replaced_in_one_step(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", "erin", "finn", at=at)
    what = Seats(leave=("alice", "bob", "carl"), join=join, proofs=proofs)
    roles = ["root", "targets", "fleet-prod", "revocations"]
    # Targets and every role that loses its signatures are drafted too.
    assert change(shop, roles, what, ticking) == ["root", "targets", "fleet-prod", "revocations"]
    sign(shop, "alice", "bob", at=at)
    # The old signatures alone are not enough for the new root.
    assert signing.merge_ready(shop, at=at)[0] == []
    sign_by(shop, tmp_path / "new", "dave", "erin", at=at)
    assert merge(shop, at) == ["root v2", "targets v3", "fleet-prod v2", "revocations v3"]
    assert seated(shop, "root") == ["dave", "erin", "finn"]
    assert [one.expired for one in shop.verify(at)] == [False] * 4


@pytest.mark.misuse
def test_a_root_without_the_old_threshold_is_never_in_force(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", "erin", "finn", at=at)
    what = Seats(leave=("alice", "bob", "carl"), join=join, proofs=proofs)
    change(shop, ["root", "targets"], what, ticking)
    sign(shop, "alice", at=at)
    sign_by(shop, tmp_path / "new", "dave", "erin", "finn", at=at)
    draft = signing.must_draft(shop, "root")
    with pytest.raises(Denied, match="1 more of bob, carl"):
        signing.merge(shop, draft, at=at)
    # Nor would any client follow.
    with pytest.raises(Refused):
        walk.check_walk(shop, draft, at=at)
    with ablation("the signatures of the old root") as attack:
        # To the new keyholders alone it looks complete.
        verify.check_signed("root", draft.metadata, verify_root(draft))
        attack.succeeded(True)


def verify_root(draft: object) -> verify.Delegator:
    from pki import store
    from pki.drafts import Draft

    assert isinstance(draft, Draft)
    return store.as_root(draft.metadata)


@pytest.mark.misuse
def test_a_new_root_that_clients_cannot_reach_is_not_put_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    root = work.root()
    # Padded so that the draft is small enough, and the file with its signatures is not.
    room = limits.ROOT_BYTES - len(Metadata(root).to_bytes()) - 100
    root.unrecognized_fields["padding"] = "x" * room
    work.write()
    sign(shop, "alice", "bob", at=at)
    with pytest.raises(Refused) as caught:
        signing.merge(shop, signing.must_draft(shop, "root"), at=at)
    assert caught.value.reason == "root-walk"
    assert shop.roles()["root"] == 1
    with ablation("the walk of a client") as attack:
        attack.without("pki.walk.check_walk")
        signing.merge(shop, signing.must_draft(shop, "root"), at=at)
        # In force, and no node can ever read it or any root after it.
        attack.succeeded((shop.path / "metadata" / "2.root.json").stat().st_size > 512_000)


@pytest.mark.misuse
def test_a_key_without_a_proof_of_its_owner_is_not_drafted(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    new = tmp_path / "new"
    join, proofs = joining(shop, new, "dave", at=at)
    strangers = proof(new, "dave", shop, at, root="f" * 64)
    old = proof(new, "dave", shop, at - timedelta(days=31))
    new_keyholder(new, "mallory")
    by_another = proof(new, "mallory", shop, at)
    for bad in ((), (strangers,), (old,), (by_another,), (b"{}",)):
        with pytest.raises(Misuse, match=r"proof|possession"):
            change(shop, ["root"], Seats(join=join, proofs=bad), ticking)
    assert not shop.drafts()
    with ablation("the proof of possession") as attack:
        attack.without("pki.possession.proof_of", lambda *_, **__: b"{}")
        change(shop, ["root", "targets"], Seats(join=join), ticking)
        # Signers are still told by their own tools.
        text = signing.review(shop.drafts()[0], pinned=shop.root_id, at=at).text
        assert "WARNING    nothing proves that dave has the new key" in text
        attack.succeeded("dave" in seated(shop, "root"))
    # The honest twin.
    change(shop, ["root", "targets"], Seats(leave=("dave",)), ticking)
    change(shop, ["root", "targets"], Seats(join=join, proofs=proofs), ticking)


@pytest.mark.misuse
def test_one_key_or_one_person_twice_has_no_second_seat(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    new = tmp_path / "new"
    join, proofs = joining(shop, new, "alice", at=at)  # a second key of somebody who is there
    with pytest.raises(Misuse, match="a person twice"):
        change(shop, ["root"], Seats(join=join, proofs=proofs), ticking)
    with pytest.raises(Misuse, match="a key twice"):
        both, proved = joining(shop, new, "dave", at=at)
        change(shop, ["root"], Seats(join=(*both, *both), proofs=proved), ticking)
    assert not shop.drafts()
    with ablation("each person once") as attack:
        attack.without("pki.people.check_distinct")
        attack.without("pki.lint.check_root")
        change(shop, ["root"], Seats(join=join, proofs=proofs), ticking)
        sign(shop, "alice", at=at)
        sign_by(shop, new, "alice", at=at)
        draft = signing.must_draft(shop, "root")
        # Alone she signs for two of two.
        verify.check_signed("root", draft.metadata, verify_root(draft))
        attack.succeeded(True)


@pytest.mark.misuse
def test_the_last_spare_key_goes_only_by_force(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    gone = Seats(leave=("carl",))
    with pytest.raises(Denied) as caught:
        change(shop, ["root", "targets"], gone, ticking)
    assert caught.value.reason == "all-needed"
    assert not shop.drafts()
    with ablation("the spare key") as attack:
        drafted = change(shop, ["root", "targets"], gone, ticking, force=True)
        sign_and_merge(shop, "alice", "bob", at=at)
        # One more lost key, and nobody can ever sign a root again.
        attack.succeeded(drafted == ["root"] and seated(shop, "root") == ["alice", "bob"])
    with pytest.raises(Misuse):
        change(shop, ["root"], Seats(leave=("bob",)), ticking, force=True)


def test_an_operator_is_replaced_in_role_and_policy_together(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    new = tmp_path / "new"
    join, proofs = joining(shop, new, "anna", "eve", "gus", at=at, purpose="operator")
    what = Seats(
        leave=("anna", "bea", "dora"), join=join, proofs=proofs, members={"sre": ["eve", "anna"]}
    )
    assert change(shop, ["prod-shop"], what, ticking) == ["targets", "fleet-prod"]
    sign_and_merge(shop, "alice", "bob", at=at)
    assert seated(shop, "prod-shop") == ["anna", "eve", "gus"]
    found = policy.parse_policy(shop.documents("fleet-prod")["fleet/prod/policy.json"])
    assert {person.id: person.keys for person in found.people} == {
        pub.person: (pub.keyid,) for pub in join
    }
    assert [person.id for person in found.people if "sre" in person.groups] == ["anna", "eve"]


def test_an_operator_of_two_apps_keeps_the_key_that_one_still_names(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    from tests.unit.pki.test_apps import add

    add(shop, ticking, "site", ["anna", "bea", "dora"], 1)
    sign_and_merge(shop, "alice", "bob", at=at)
    join, proofs = joining(shop, tmp_path / "new", "eve", at=at, purpose="operator")
    change(shop, ["prod-shop"], Seats(leave=("anna",), join=join, proofs=proofs), ticking)
    sign_and_merge(shop, "alice", "bob", at=at)
    found = policy.parse_policy(shop.documents("fleet-prod")["fleet/prod/policy.json"])
    assert [person.id for person in found.people] == ["anna", "bea", "dora", "eve"]


def test_an_approval_role_never_needs_all_its_operators(shop: TrustFolder, ticking: Clock) -> None:
    for force in (False, True):
        with pytest.raises(Misuse):
            change(shop, ["prod-shop"], Seats(leave=("anna",)), ticking, force=force)
    with pytest.raises(Misuse):
        change(shop, ["prod-shop"], Seats(thresholds={"prod-shop": 3}), ticking)


def test_a_threshold_is_raised_and_lowered_with_a_warning(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    raised = {"root": 3, "targets": 3}
    with pytest.raises(Denied):
        change(shop, ["root", "targets"], Seats(thresholds=raised), ticking)
    change(shop, ["root", "targets"], Seats(thresholds=raised), ticking, force=True)
    sign_and_merge(shop, "alice", "bob", "carl", at=at)
    lowered = {"root": 1, "targets": 2}
    change(shop, ["root", "targets"], Seats(thresholds=lowered), ticking)
    text = signing.review(signing.must_draft(shop, "root"), pinned=shop.root_id, at=at).text
    assert "WARNING    role root needs fewer signatures: 1, was 3" in text


@pytest.mark.parametrize("role", ["snapshot", "timestamp", "gates-prod", "prod-none", "fleet-none"])
def test_roles_without_keyholders_are_refused(role: str, shop: TrustFolder, ticking: Clock) -> None:
    with pytest.raises(Misuse):
        change(shop, [role], Seats(leave=("alice",)), ticking)
    assert not shop.drafts()


@pytest.mark.misuse
def test_a_draft_of_another_fleet_is_not_signed_here(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    other = ceremony.hold(tmp_path / "other", ticking)
    join, proofs = joining(other, tmp_path / "new", "dave", at=at)
    change(other, ["root", "targets"], Seats(join=join, proofs=proofs), ticking)
    (replayed,) = other.drafts()
    with pytest.raises(Refused) as caught:
        signing.review(replayed, pinned=shop.root_id, at=at)
    assert caught.value.expected.startswith("fleet")
    with ablation("the fleet that a key is bound to") as attack:
        attack.succeeded(signing.review(replayed, pinned="", at=at).text)


@pytest.mark.misuse
def test_a_strangers_signature_counts_for_nothing(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", at=at)
    change(shop, ["root", "targets"], Seats(join=join, proofs=proofs), ticking)
    new_keyholder(tmp_path / "new", "mallory")
    sign(shop, "alice", at=at)
    opened = signers.open_key(f"keyfile:{tmp_path}/new/mallory.key", ceremony.source())
    reviewed = signing.review(shop.drafts()[0], pinned=shop.root_id, at=at)
    with pytest.raises(Denied) as caught:
        signing.sign(reviewed, opened)
    assert caught.value.reason == "not-a-signer"
    with ablation("the keys that count") as attack:
        attack.without("pki.signing.check_may_sign")
        signing.sign(reviewed, opened)
        # Two signatures for two of three, if anybody counted files; verification counts keys.
        draft = signing.must_draft(shop, "root")
        assert signing.missing(shop, draft)[0] == 1
        attack.succeeded(len(draft.metadata.signatures) == 2)
    with pytest.raises(Denied):
        signing.merge(shop, signing.must_draft(shop, "root"), at=at)


def test_proofs_stay_when_a_draft_is_edited_further(
    shop: TrustFolder, tmp_path: Path, ticking: Clock, at: datetime
) -> None:
    join, proofs = joining(shop, tmp_path / "new", "dave", "erin", at=at)
    roles = ["root", "targets"]
    change(shop, roles, Seats(join=join[:1], proofs=proofs[:1]), ticking)
    change(shop, roles, Seats(join=join[1:], proofs=proofs[1:]), ticking)
    (draft,) = shop.drafts()
    assert set(possession.carried(draft.folder)) == {pub.keyid for pub in join}
    assert "nothing proves" not in signing.review(draft, pinned=shop.root_id, at=at).text


def test_a_name_before_a_new_keyholders_file_is_told_apart_from_a_missing_file() -> None:
    with pytest.raises(Misuse, match="the name is inside") as problem:
        keyholders.read_join([Path("dave=dave.pub")], ["root"])
    assert "NAME=FILE" in problem.value.hint
