"""Signatures are checked once for the same bytes and keys, and again for any other."""

from __future__ import annotations

import hashlib

import pytest
from securesystemslib.signer import CryptoSigner, Key, Signature, SSlibKey
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Targets

from embrasure import limits
from embrasure.trust.workflow import vouching
from embrasure.trust.workflow.vouching import vouched
from tests.ablation import Ablation

ALICE, BOB = CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()


def root(*signers: CryptoSigner, threshold: int = 1) -> Root:
    """Return a root that lets these sign targets."""
    made = Root()
    for signer in signers:
        made.add_key(signer.public_key, Targets.type)
    made.roles[Targets.type].threshold = threshold
    return made


def file(version: int = 1, *, by: CryptoSigner = ALICE) -> bytes:
    """Return a targets file that one has signed."""
    made = Metadata(Targets(version=version))
    made.sign(by)
    return made.to_bytes()


def signers(raw: bytes, delegator: Root) -> frozenset[str]:
    return vouched(raw, Metadata[Targets].from_bytes(raw), Targets.type, delegator).signers


def test_what_is_found_is_what_python_tuf_finds() -> None:
    raw, both = file(), root(ALICE, BOB)
    metadata = Metadata[Targets].from_bytes(raw)
    for _ in range(2):  # checked, then remembered
        found = vouched(raw, metadata, Targets.type, both)
        assert found.signers == {ALICE.public_key.keyid}
        assert found.keys == {ALICE.public_key.keyid, BOB.public_key.keyid}
        assert found.sha256 == hashlib.sha256(metadata.signed_bytes).hexdigest()
        assert found.threshold == 1
    with pytest.raises(UnsignedMetadataError):
        signers(raw, root(ALICE, BOB, threshold=2))
    with pytest.raises(ValueError, match="not found"):
        vouched(raw, metadata, "other", both)


def test_a_key_that_is_named_and_not_there_is_passed_over() -> None:
    raw, one = file(), root(ALICE)
    one.roles[Targets.type].keyids.append("f" * 64)
    assert signers(raw, one) == {ALICE.public_key.keyid}
    with pytest.raises(UnsignedMetadataError):
        signers(file(by=BOB), one)


@pytest.mark.misuse
def test_a_key_that_was_taken_away_vouches_no_more(ablation: Ablation) -> None:
    raw = file()
    assert signers(raw, root(ALICE))
    with pytest.raises(UnsignedMetadataError):
        signers(raw, root(BOB))
    # The same id for another key is another key.
    other = root(BOB)
    key = BOB.public_key
    renamed = Key.from_dict(ALICE.public_key.keyid, {**key.to_dict()})
    other.roles[Targets.type].keyids = [renamed.keyid]
    other.keys = {renamed.keyid: renamed}
    with pytest.raises(UnsignedMetadataError):
        signers(raw, other)
    with ablation("the keys in what is remembered") as attack:
        attack.without("embrasure.trust.workflow.vouching._case",
                       lambda raw, role, _: (hashlib.sha256(raw).digest(), role))  # fmt: skip
        signers(raw, root(ALICE))
        attack.succeeded(signers(raw, root(BOB)))


@pytest.mark.misuse
def test_other_bytes_are_checked_again(ablation: Ablation) -> None:
    def forged() -> bytes:
        """Another version below the signature of the first."""
        made = Metadata[Targets].from_bytes(file())
        made.signed.version = 2
        return made.to_bytes()

    assert signers(file(), root(ALICE))
    with pytest.raises(UnsignedMetadataError):
        signers(forged(), root(ALICE))
    with ablation("the bytes in what is remembered") as attack:
        attack.without("embrasure.trust.workflow.vouching._case", lambda raw, role, _: role)
        signers(file(), root(ALICE))
        attack.succeeded(signers(forged(), root(ALICE)))


def test_nothing_is_remembered_of_what_was_refused_or_cannot_be_told_apart() -> None:
    vouching._memory._held.clear()
    with pytest.raises(UnsignedMetadataError):
        signers(file(), root(BOB))
    strange = root(ALICE)

    class Asking(type(ALICE.public_key)):  # type: ignore[misc]  # a key that asks somebody
        def verify_signature(self, signature: Signature, data: bytes) -> None:
            """It always says yes, today."""

    key = ALICE.public_key
    strange.keys = {key.keyid: Asking(key.keyid, key.keytype, key.scheme, key.keyval)}
    assert signers(file(), strange)
    assert not vouching._memory._held
    # python-tuf keeps what it does not know in a key, in whatever form.
    strange.keys = {
        key.keyid: SSlibKey(key.keyid, key.keytype, key.scheme, {**key.keyval, "x": []})
    }
    assert signers(file(), strange)
    assert not vouching._memory._held


def test_a_file_of_another_role_is_no_file_of_this_one() -> None:
    assert vouching._load(Targets, file(7))[0].version == 7  # nobody was asked to vouch for it
    with pytest.raises(RepositoryError, match="Expected 'root', got 'targets'"):
        vouching._load(Root, file())


def test_the_memory_is_bounded() -> None:
    vouching._memory._held.clear()
    for version in range(1, limits.VOUCHED_KEPT + 10):
        signers(file(version), root(ALICE))
    assert len(vouching._memory._held) == limits.VOUCHED_KEPT
