"""CA keys are replaced by keys that lie in a token: an issuer's, then the CA root's."""

from __future__ import annotations

import itertools
from datetime import datetime
from pathlib import Path

import pytest

from embrasure.errors import Denied, Misuse
from embrasure.trust.documents import KeyId
from pki import keyfile, keyrecords, outsidekeys, root_rotation, rotation
from pki.bundles import Keys
from pki.folder import TrustFolder
from pki.keyfacts import public_key
from pki.keyuri import TokenUri
from pki.signerkey import p256_of
from tests.ablation import Ablation
from tests.simulate import ceremony
from tests.simulate.softhsm import SoftHsm

KEYS = Keys(ceremony.source(), keyfile.MODERATE)
LABELS = itertools.count()


@pytest.fixture
def token(hsm: SoftHsm) -> str:
    return hsm.token(f"ca-{next(LABELS)}")


def make(token: str, number: int, out: Path, *, scheme: str = "ecdsa-p256") -> str:
    uri = TokenUri(number, token)
    outsidekeys.generate(
        f"ca-{number}", uri, out, purpose="ca", scheme=scheme, anchor=None,
        passphrase=ceremony.source(),
    )  # fmt: skip
    return uri.plain


def keyid_in(shop: TrustFolder, file: str) -> KeyId:
    return keyrecords.read_record(shop.path / "ca" / file).keyid


def test_an_issuer_and_then_the_root_move_into_a_token(
    shop: TrustFolder, token: str, tmp_path: Path, at: datetime
) -> None:
    gateway, root = make(token, 2, tmp_path), make(token, 3, tmp_path)
    step = rotation.create(shop, "gateway", KEYS, clock=lambda: at, uri=gateway)
    assert step.drafts and keyid_in(shop, "gateway-2.json") == keyrecords.at(gateway).keyid
    book = shop.authorities()
    (prepared,) = book.of("gateway", "prepared")
    assert book.uri_of(prepared).startswith("keyrecord:")
    wanted = p256_of(public_key(keyrecords.at(gateway)))
    assert book.certificate(prepared).public_key() == wanted
    ceremony.sign_and_merge(shop, "alice", "bob", at=at)
    root_rotation.rotate_root(shop, "ecdsa-p256", KEYS, clock=lambda: at, uri=root)
    assert not (shop.path / "ca" / "root-2.key").exists()
    # The new root signed what it certifies: every issuer in use, the one in the token too.
    book = shop.authorities()
    old, new = (book.certificate(one) for one in book.of("root", "active", "retiring"))
    assert new.public_key() == p256_of(public_key(keyrecords.at(root))) != old.public_key()
    crossed = list((shop.path / "ca").glob("*.root-2.crt"))
    assert len(crossed) == 6
    assert keyid_in(shop, "root-2.json") == keyrecords.at(root).keyid
    assert keyrecords.read_record(shop.path / "ca" / "root-2.json").root == shop.root_id


def test_a_key_of_another_kind_is_refused_before_anything_is_written(
    shop: TrustFolder, token: str, tmp_path: Path, at: datetime
) -> None:
    before = sorted((shop.path / "ca").iterdir())
    uri = make(token, 2, tmp_path, scheme="ecdsa-p384")
    with pytest.raises(Misuse, match="ecdsa-p256"):
        rotation.create(shop, "gateway", KEYS, clock=lambda: at, uri=uri)
    assert sorted((shop.path / "ca").iterdir()) == before


@pytest.mark.misuse
def test_a_keyholders_key_becomes_no_issuer(
    shop: TrustFolder, token: str, tmp_path: Path, at: datetime, ablation: Ablation
) -> None:
    """One key for metadata and for certificates: a signature of one could be shown as the other."""
    uri = TokenUri(2, token)
    outsidekeys.generate(
        "alice", uri, tmp_path, purpose="security", scheme="ecdsa-p256", anchor=None,
        passphrase=ceremony.source(),
    )  # fmt: skip
    with pytest.raises(Denied) as told:
        rotation.create(shop, "gateway", KEYS, clock=lambda: at, uri=uri.plain)
    assert told.value.reason == "key-purpose"
    with ablation("the purpose of the key's record") as attack:
        attack.without("pki.next_ca_key.check_use")
        attack.succeeded(rotation.create(shop, "gateway", KEYS, clock=lambda: at, uri=uri.plain))
