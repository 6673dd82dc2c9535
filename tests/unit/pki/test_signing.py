"""Drafts: who signs them, what puts them in force, and how each guard fails when it is gone."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, Signature

from embrasure.clock import Clock
from embrasure.command import Common
from embrasure.errors import Denied, Misuse, NotSupported, Refused
from embrasure.trust import layout
from embrasure.trust.canonical import sha256_hex
from pki import denials, drafts, keyfile, people, roles, signers, signing, signround, store
from pki.base import read_base
from pki.desk import Desk
from pki.drafts import Draft
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import opened, sign, sign_and_merge

DIGEST = "d" * 64


def revoke(trust: TrustFolder, ticking: Clock, plan: str = DIGEST) -> Draft:
    what = denials.denial(plans=[plan], manifests=[], keys=[], nodes=[])
    (draft,) = denials.revoke(trust, "prod", what, reason="bad build", clock=ticking)
    return draft


def deny(trust: TrustFolder, ticking: Clock, plan: str = DIGEST) -> Draft:
    what = denials.denial(plans=[plan], manifests=[], keys=[], nodes=[])
    (draft,) = denials.deny(trust, "prod", what, lift=False, clock=ticking)
    return draft


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


def carry(trust: TrustFolder, to: Path, *names: str) -> Path:
    """Return the drafts folder as a keyholder gets it, and nothing else of the trust folder."""
    shutil.copytree(trust.path / "drafts", to / "drafts")
    for name in names:
        shutil.copy2(trust.path / "keys" / f"{name}.key", to / f"{name}.key")
    return to / "drafts"


def sign_carried(folder: Path, key: Path, ticking: Clock, *digests: str) -> list[dict[str, object]]:
    return signround.sign_drafts(
        folder,
        None,
        f"keyfile:{key}",
        confirmed=digests,
        source=ceremony.source(),
        common=Common(no_input=True),
        clock=ticking,
    )


def test_drafts_are_signed_on_machines_that_hold_nothing_but_the_draft_and_a_key(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    draft = deny(shop, ticking)
    for name in ("alice", "bob"):
        machine = tmp_path / name
        machine.mkdir()
        carried = carry(shop, machine, name)
        (signed,) = sign_carried(carried, machine / f"{name}.key", ticking, draft.digest)
        assert signed["role"] == "fleet-prod"
        assert signround.collect(shop, carried) == 1
    signing.merge(shop, shop.drafts()[0], at=at)
    assert shop.roles()["fleet-prod"] == draft.version


@pytest.mark.misuse
def test_nothing_is_signed_that_was_not_confirmed_by_its_whole_digest(
    shop: TrustFolder, ticking: Clock, tmp_path: Path, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    carried = carry(shop, tmp_path, "alice")
    for digests in ([], [draft.digest[:8]], ["0" * 64]):
        with pytest.raises(Denied):
            sign_carried(carried, tmp_path / "alice.key", ticking, *digests)
    assert not list(carried.glob("*/signatures/*"))
    with ablation("the confirmation") as attack:
        attack.without("pki.acting.confirm")
        sign_carried(carried, tmp_path / "alice.key", ticking)
        attack.succeeded(list(carried.glob("*/signatures/*")))


@pytest.mark.misuse
def test_a_draft_of_another_fleet_is_refused_by_the_key(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path, ablation: Ablation
) -> None:
    other = ceremony.hold(tmp_path / "other", ticking)
    ceremony.add_environment(other, "prod", ticking)
    draft = other.drafts()[0]
    alice = opened(shop, "alice")
    with pytest.raises(Refused) as told:
        signing.review(draft, pinned=alice.header.root, at=at)
    assert told.value.reason == "identity"
    with ablation("the fleet that a key is bound to") as attack:
        attack.without("pki.base.check_pinned")
        attack.succeeded(signing.review(draft, pinned=alice.header.root, at=at).text)


def test_the_first_signature_binds_a_key_to_its_fleet(tmp_path: Path, ticking: Clock) -> None:
    names = []
    for name in ("alice", "bob"):
        raw = keyfile.seal(
            keyfile.generate("ed25519"),
            ceremony.PASSPHRASE,
            purpose="security",
            label=name,
            salt=keyfile.salt_for(ceremony.PASSPHRASE),
        )
        (tmp_path / f"{name}.key").write_bytes(raw)
        (tmp_path / f"{name}.key").chmod(0o600)
        (tmp_path / f"{name}.pub").write_bytes(people.public_file(keyfile.header_of(raw)))
        names.append(str(tmp_path / f"{name}.pub"))
    from pki import ceremony as real

    trust = real.hold(
        tmp_path / "trust",
        domain="example.org",
        holders=real.keyholders(names, threshold=2, generate=False),
        passphrase=ceremony.PASSPHRASE,
        costs=ceremony.COSTS,
        clock=ticking,
    )
    digests = [draft.digest for draft in trust.drafts()]
    assert len(digests) == 3
    for name in ("alice", "bob"):
        sign_carried(trust.path, tmp_path / f"{name}.key", ticking, *digests)
    merged, waiting = signing.merge_ready(trust, at=ticking())
    assert merged == ["root v1", "targets v1", "revocations v1"] and not waiting
    header = keyfile.header_of((tmp_path / "alice.key").read_bytes())
    assert header.root == trust.root_id


@pytest.mark.misuse
def test_a_signed_draft_is_not_edited_under_its_signers(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    deny(shop, ticking)
    sign(shop, "alice", at=at)
    with pytest.raises(Denied) as told:
        deny(shop, ticking, "e" * 64)
    assert told.value.reason == "draft-open"
    with ablation("the look for signatures") as attack:
        attack.without("pki.drafts.check_unsigned")
        changed = deny(shop, ticking, "e" * 64)
        attack.succeeded(not changed.metadata.signatures)


def test_an_unsigned_draft_is_edited_further(shop: TrustFolder, ticking: Clock) -> None:
    first = deny(shop, ticking)
    second = deny(shop, ticking, "e" * 64)
    assert first.version == second.version
    denied = json.loads(second.documents["fleet/prod/policy.json"])["denied"]
    assert denied["plans"] == [DIGEST, "e" * 64]


def test_a_discarded_draft_leaves_what_is_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    before = shop.verify(at)
    drafts.discard(deny(shop, ticking).folder)
    assert shop.verify(at) == before and not shop.drafts()


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


@pytest.mark.misuse
def test_an_expired_draft_is_not_put_in_force(
    shop: TrustFolder, ticking: Clock, at: datetime, ablation: Ablation
) -> None:
    draft = revoke(shop, ticking)
    sign(shop, "alice", at=at)
    with pytest.raises(Refused):
        signing.merge(shop, shop.drafts()[0], at=at + timedelta(days=31))
    with ablation("the check of the content") as attack:
        attack.without("pki.lint.check_content")
        signing.merge(shop, shop.drafts()[0], at=at + timedelta(days=31))
        attack.succeeded(shop.roles()["revocations"] == draft.version)


@pytest.mark.misuse
def test_a_base_that_does_not_verify_hides_no_change(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path, ablation: Ablation
) -> None:
    # The carrier plants the denial in the base, so that lifting nothing seems to happen.
    draft = deny(shop, ticking)
    planted = drafts.load(draft.folder, "fleet-prod").metadata
    planted.signed.version = draft.version - 1
    planted.signatures.clear()
    base = draft.folder / "base"
    name = layout.metadata_file("fleet-prod", draft.version - 1)
    (base / name).write_bytes(planted.to_bytes())
    shutil.copytree(draft.folder / "targets", base / "targets", dirs_exist_ok=True)
    text = signing.review(draft, pinned=shop.root_id, at=at).text
    assert "all is shown as new" in text
    assert f'denied.plans = ["{DIGEST}"]' in text
    with ablation("the signatures of the base") as attack:
        attack.without("pki.verify.check_signed")
        attack.succeeded(DIGEST not in signing.review(draft, pinned=shop.root_id, at=at).text)


@pytest.mark.misuse
def test_target_files_that_are_not_the_listed_ones_are_never_shown(
    shop: TrustFolder, ticking: Clock, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    (file,) = draft.folder.glob("targets/fleet/prod/*.policy.json")
    file.write_bytes(file.read_bytes().replace(DIGEST.encode(), b"e" * 64))
    with pytest.raises(Refused):
        drafts.load(draft.folder, "fleet-prod")
    with ablation("the digest of each file") as attack:
        listed = file.name.partition(".")[0]
        attack.without(
            "pki.store.sha256_hex", lambda raw: listed if b"e" * 64 in raw else sha256_hex(raw)
        )
        shown = drafts.load(draft.folder, "fleet-prod").documents["fleet/prod/policy.json"]
        attack.succeeded(DIGEST.encode() not in shown)


def test_a_signature_file_under_another_name_is_refused(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", at=at)
    (file,) = draft.folder.glob("signatures/*.json")
    file.rename(file.with_name("0" * 64 + ".json"))
    with pytest.raises(Refused):
        shop.drafts()


@pytest.mark.misuse
def test_carried_signatures_of_another_draft_are_not_taken(
    shop: TrustFolder, ticking: Clock, tmp_path: Path, ablation: Ablation
) -> None:
    draft = deny(shop, ticking)
    carried = carry(shop, tmp_path, "alice")
    sign_carried(carried, tmp_path / "alice.key", ticking, draft.digest)
    deny(shop, ticking, "e" * 64)
    with pytest.raises(Refused):
        signround.collect(shop, carried)
    with ablation("the digest of the draft") as attack:
        (signed,) = drafts.load(carried / "fleet-prod", "fleet-prod").metadata.signatures.values()
        drafts.add_signature(shop.drafts()[0], signed)
        attack.succeeded(signed.keyid in shop.drafts()[0].metadata.signatures)


def test_a_crash_between_the_last_file_and_the_end_of_the_draft_is_healed(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", "bob", at=at)
    shutil.copytree(draft.folder, tmp_path / "again")
    signing.merge(shop, shop.drafts()[0], at=at)
    shutil.copytree(tmp_path / "again", draft.folder)
    assert signing.merge_ready(shop, at=at) == ([f"fleet-prod v{draft.version}"], [])
    assert not shop.drafts()


def test_an_older_version_is_not_put_in_force_again(
    shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path
) -> None:
    draft = deny(shop, ticking)
    sign(shop, "alice", "bob", at=at)
    shutil.copytree(draft.folder, tmp_path / "again")
    signing.merge(shop, shop.drafts()[0], at=at)
    deny(shop, ticking, "e" * 64)
    sign_and_merge(shop, "alice", "bob", at=at)
    shutil.copytree(tmp_path / "again", draft.folder)
    with pytest.raises(Refused):
        signing.merge(shop, shop.drafts()[0], at=at)


@pytest.mark.parametrize("role", ["prod-shop", "gates-prod", "snapshot", "timestamp", "nonsense"])
def test_only_the_security_teams_roles_are_drafted_here(role: str) -> None:
    with pytest.raises((Misuse, NotSupported)):
        roles.check_drafted(role)


def test_a_folder_that_verifies_says_so_and_one_that_was_touched_does_not(
    shop: TrustFolder, at: datetime
) -> None:
    assert [one.role for one in shop.verify(at)] == [
        "root",
        "targets",
        "fleet-prod",
        "revocations",
    ]
    (file,) = (shop.path / "targets" / "fleet" / "prod").glob("*.tls.json")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(Refused):
        shop.verify(at)


def test_a_base_is_read_without_a_pin_at_the_first_signature(
    shop: TrustFolder, ticking: Clock
) -> None:
    assert read_base(deny(shop, ticking), pinned="").root_id == shop.root_id


def test_a_signature_is_one_small_file_named_by_its_key(
    shop: TrustFolder, ticking: Clock, at: datetime
) -> None:
    draft = deny(shop, ticking)
    alice = opened(shop, "alice")
    file = signing.sign(signing.review(draft, pinned=shop.root_id, at=at), alice)
    assert file.name == f"{alice.header.keyid}.json" and file.stat().st_size < 1024
    found = shop.drafts()[0].metadata.signatures[alice.header.keyid]
    assert isinstance(found, Signature)
    assert signers.as_uri("x") == "keyfile:x"


@pytest.mark.misuse
@pytest.mark.parametrize("whose", ["alice's", "nobody's"])
def test_made_up_signatures_on_a_stick_take_no_true_ones_place(
    whose: str, shop: TrustFolder, ticking: Clock, at: datetime, tmp_path: Path, ablation: Ablation
) -> None:
    """Kept first, one of alice's shuts out her own; sixty-four of nobody's, the whole folder."""
    draft, alice = deny(shop, ticking), opened(shop, "alice")
    stick, machine = tmp_path / "stick", tmp_path / "machine"
    for place in (stick, machine):
        place.mkdir()
    honest = carry(shop, machine, "alice")
    sign_carried(honest, machine / "alice.key", ticking, draft.digest)
    made_up = drafts.load(carry(shop, stick) / "fleet-prod", "fleet-prod")
    ids = [alice.header.keyid] if whose == "alice's" else [f"{n:064x}" for n in range(64)]
    for keyid in ids:
        drafts.add_signature(made_up, Signature(keyid, "00" * 64))
    assert signround.collect(shop, stick / "drafts") == 0
    assert signround.collect(shop, honest) == 1
    assert signing.missing(shop, shop.drafts()[0])[0] == 1
    with ablation("which signatures count") as attack:
        attack.without("pki.signround.counted", lambda _, __, one: set(one.metadata.signatures))
        shutil.rmtree(draft.folder / "signatures")
        assert signround.collect(shop, stick / "drafts") == len(ids)
        if whose == "alice's":
            attack.succeeded(signround.collect(shop, honest) == 0)
        else:
            signround.collect(shop, honest)
            with pytest.raises(Refused) as shut:
                shop.drafts()
            attack.succeeded(shut.value)
