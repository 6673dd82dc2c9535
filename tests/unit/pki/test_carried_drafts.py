"""Drafts that are carried to their keyholders and back, on a stick that anybody may have held."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest
from securesystemslib.signer import Signature

from embrasure.clock import Clock
from embrasure.command import Common
from embrasure.errors import Denied, Refused
from pki import drafts, keyfile, people, signers, signing, signround
from pki.base import read_base
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.ceremony import opened
from tests.simulate.denying import deny


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
