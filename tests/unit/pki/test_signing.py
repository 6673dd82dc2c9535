"""Who signs a draft: how many, of whom, and how each guard fails when it is gone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner, Signature

from embrasure.clock import Clock
from embrasure.errors import Denied, Refused
from pki import denials, drafts, keyfile, people, signing, store
from pki.desk import Desk
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import opened, sign, sign_and_merge
from tests.simulate.denying import DIGEST, deny, revoke


def test_a_ceremony_leaves_root_targets_and_revocations_in_force(
    trust: TrustFolder, at: datetime
) -> None:
    found = {one.role: one for one in trust.verify(at)}
    assert list(found) == ["root", "targets", "revocations"]
    assert found["root"].threshold == found["targets"].threshold == 2
    assert found["revocations"].threshold == 1
    assert found["root"].owners == ("alice", "bob", "carl")
    assert store.signed_digest(store.parse_metadata(trust.anchor, "root")) == trust.root_id


def test_one_of_two_signatures_is_not_enough(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", at=at)
    with pytest.raises(Denied) as told:
        signing.merge(shop, shop.drafts()[0], at=at)
    assert told.value.reason == "threshold"
    assert "bob, carl" in str(told.value)
    assert shop.roles()["fleet-prod"] == draft.version - 1


def test_two_of_two_signatures_put_it_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = deny(shop, ticking)
    sign_and_merge(shop, "carl", "alice", at=at)
    assert shop.roles()["fleet-prod"] == draft.version
    assert not shop.drafts()
    denied = json.loads(shop.documents("fleet-prod")["fleet/prod/policy.json"])["denied"]
    assert denied["plans"] == [DIGEST]


@pytest.mark.misuse
def test_the_same_keyholder_twice_counts_once(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", "alice", at=at)
    # Nor does her signature count again under the id of somebody else's key.
    (hers,) = shop.drafts()[0].metadata.signatures.values()
    drafts.add_signature(draft, Signature(opened(shop, "bob").header.keyid, hers.signature))
    assert len(shop.drafts()[0].metadata.signatures) == 2
    assert signing.missing(shop, shop.drafts()[0])[:2] == (1, ["alice"])
    with ablation("signatures that are verified, not counted, twice") as attack:
        attack.without("pki.signing.missing", lambda *_: (0, [], []))
        attack.without("pki.verify.check_signed")
        signing.merge(shop, shop.drafts()[0], at=at)
        attack.succeeded(shop.roles()["fleet-prod"] == draft.version)


@pytest.mark.misuse
def test_a_signature_over_other_bytes_does_not_count(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", at=at)
    forged = opened(shop, "bob").signer.sign(b"something else")
    drafts.add_signature(draft, forged)
    with pytest.raises(Denied):
        signing.merge(shop, shop.drafts()[0], at=at)
    with ablation("signatures that are verified, twice") as attack:
        # Counting files instead of verifying them would put it in force.
        attack.without("pki.signing.missing", lambda *_: (0, [], []))
        with pytest.raises(Refused):
            signing.merge(shop, shop.drafts()[0], at=at)
        attack.without("pki.verify.check_signed")
        signing.merge(shop, shop.drafts()[0], at=at)
        attack.succeeded(shop.roles()["fleet-prod"] == draft.version)


@pytest.mark.misuse
def test_a_stranger_cannot_sign(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    private = keyfile.generate("ed25519")
    raw = keyfile.seal(
        private,
        ceremony.PASSPHRASE,
        purpose="security",
        label="mallory",
        salt=keyfile.salt_for(ceremony.PASSPHRASE),
    )
    stranger = keyfile.open_bytes(raw, ceremony.PASSPHRASE)
    reviewed = signing.review(draft, pinned="", at=at)
    with pytest.raises(Denied) as told:
        signing.sign(reviewed, stranger)
    assert told.value.reason == "not-a-signer"
    with ablation("who may sign, and whose signature counts") as attack:
        # Even when the tool lets her, her signature counts for nothing.
        attack.without("pki.signing.check_may_sign")
        signing.sign(reviewed, stranger)
        sign(shop, "alice", at=at)
        with pytest.raises(Denied):
            signing.merge(shop, shop.drafts()[0], at=at)
        attack.without("pki.signing.missing", lambda *_: (0, [], []))
        attack.without("pki.verify.check_signed")
        signing.merge(shop, shop.drafts()[0], at=at)
        attack.succeeded(shop.roles()["fleet-prod"] == draft.version)


@pytest.mark.misuse
def test_an_operator_cannot_sign_for_the_security_team(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    reviewed = signing.review(deny(shop, ticking), pinned="", at=at)
    with pytest.raises(Denied):
        signing.sign(reviewed, opened(shop, "anna"))
    with ablation("who may sign") as attack:
        attack.without("pki.signing.check_may_sign")
        attack.succeeded(signing.sign(reviewed, opened(shop, "anna")).exists())


def test_one_keyholder_alone_can_stop_a_plan(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = revoke(shop, ticking)
    sign_and_merge(shop, "bob", at=at)
    assert shop.roles()["revocations"] == draft.version
    revoke(shop, ticking, "e" * 64)
    sign_and_merge(shop, "carl", at=at)
    found = json.loads(shop.documents("revocations")["revoked/prod.json"])
    assert found["plans"] == [DIGEST, "e" * 64]


def test_a_stop_does_not_wait_for_an_open_draft_of_targets(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    ceremony.add_environment(shop, "test", ticking)
    for role in ("revocations", "fleet-test"):
        drafts.discard(shop.path / "drafts" / role)
    draft = revoke(shop, ticking)
    reviewed = signing.review(draft, pinned=shop.root_id, at=at)
    signing.sign(reviewed, opened(shop, "alice"))
    signing.merge(shop, shop.drafts()[-1], at=at)
    assert shop.roles()["revocations"] == draft.version


@pytest.mark.misuse
def test_a_change_of_keys_that_orphans_a_role_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    work = Desk(shop, ticking)
    targets = work.targets()
    assert targets.delegations is not None and targets.delegations.roles is not None
    fleet = targets.delegations.roles["fleet-prod"]
    fresh = [people.with_owner(CryptoSigner.generate_ed25519().public_key, n) for n in ("x", "y")]
    for key in fresh:
        targets.delegations.keys[key.keyid] = key
    fleet.keyids = [key.keyid for key in fresh]
    work.write()
    sign(shop, "alice", "bob", at=at)
    with pytest.raises(Denied) as told:
        signing.merge(shop, shop.drafts()[0], at=at)
    assert told.value.reason == "orphan"
    with ablation("the look at what would be orphaned") as attack:
        attack.without("pki.signing.check_no_orphan")
        signing.merge(shop, shop.drafts()[0], at=at)
        with pytest.raises(Refused) as broken:
            shop.verify(at)
        attack.succeeded(broken.value.reason == "threshold")


def test_keyholders_change_when_the_role_was_signed_by_old_and_new_first(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    fresh = [
        keyfile.open_bytes(
            keyfile.seal(
                keyfile.generate("ed25519"),
                ceremony.PASSPHRASE,
                purpose="security",
                label=name,
                salt=keyfile.salt_for(ceremony.PASSPHRASE),
            ),
            ceremony.PASSPHRASE,
        )
        for name in ("xaver", "yann")
    ]
    work = Desk(shop, ticking)
    targets = work.targets()
    assert targets.delegations is not None and targets.delegations.roles is not None
    for one in fresh:
        key = people.with_owner(one.signer.public_key, one.header.label)
        targets.delegations.keys[key.keyid] = key
    targets.delegations.roles["fleet-prod"].keyids = [one.header.keyid for one in fresh]
    work.write()
    denials.renew(shop, "fleet-prod", clock=ticking)
    sign(shop, "alice", "bob", at=at)
    for one in fresh:
        draft = signing.must_draft(shop, "fleet-prod")
        signing.sign(signing.review(draft, pinned=shop.root_id, at=at), one)
    signing.merge(shop, signing.must_draft(shop, "fleet-prod"), at=at)
    signing.merge(shop, signing.must_draft(shop, "targets"), at=at)
    fleet = next(one for one in shop.verify(at) if one.role == "fleet-prod")
    assert fleet.signers == ("xaver", "yann")


def test_a_new_root_needs_the_keyholders_of_the_old_one(
    trust: TrustFolder, ticking: Clock, at: datetime
) -> None:
    work = Desk(trust, ticking)
    root = work.root()
    fresh = [people.with_owner(CryptoSigner.generate_ed25519().public_key, n) for n in ("x", "y")]
    old = list(root.roles["root"].keyids)
    for key in fresh:
        root.add_key(key, "root")
    for keyid in old:
        root.revoke_key(keyid, "root")
    (draft,) = work.write()
    sign(trust, "alice", "bob", at=at)
    needed, signed, others = signing.missing(trust, trust.drafts()[0])
    assert (needed, signed) == (2, ["alice", "bob"])
    assert {"x", "y"} <= set(others)
    assert draft.version == 2


def test_a_renewed_root_walks_on_from_the_anchor(
    trust: TrustFolder, ticking: Clock, at: datetime
) -> None:
    later = at + timedelta(days=200)
    denials.renew(trust, "root", clock=lambda: later)
    sign_and_merge(trust, "alice", "carl", at=later)
    root = next(one for one in trust.verify(later) if one.role == "root")
    assert (root.version, root.expires) == (2, later + timedelta(days=365))
    denials.renew(trust, "targets", clock=lambda: later)
    sign_and_merge(trust, "bob", "carl", at=later)
    assert trust.roles()["targets"] == 2


def test_a_signature_file_under_another_name_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", at=at)
    (file,) = draft.folder.glob("signatures/*.json")
    file.rename(file.with_name("0" * 64 + ".json"))
    with pytest.raises(Refused):
        shop.drafts()
