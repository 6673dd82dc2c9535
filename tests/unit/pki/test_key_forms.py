"""Public keys as metadata lists them, and files of secrets: each form has one reading, one mode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SSlibKey

from embrasure.errors import EmbrasureError, Refused
from pki import schemes, secretfiles
from pki.schemes import Scheme
from tests.ablation import Ablation


def listed(scheme: Scheme) -> SSlibKey:
    return schemes.public_of(schemes.generate(scheme))


def said(key: SSlibKey, *, scheme: str = "", public: str = "") -> SSlibKey:
    """Return what a token or a service may show: the key under another scheme, or other text."""
    value = public or key.keyval["public"]
    return SSlibKey(key.keyid, key.keytype, scheme or key.scheme, {"public": value})


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
def test_a_listed_key_is_written_and_read_back(scheme: Scheme) -> None:
    key = listed(scheme)
    found, pub = schemes.written(key)
    assert found == scheme
    assert schemes.decode_public(found, pub, key.keyid) == key


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("scheme", "claimed"),
    [("ecdsa-p256", "ecdsa-sha2-nistp384"), ("ecdsa-p384", "ecdsa-sha2-nistp256"),
     ("ml-dsa-65", "ecdsa-sha2-nistp256"), ("ecdsa-p256", "ml-dsa-65/1")],
)  # fmt: skip
def test_a_key_that_is_listed_under_another_scheme_is_refused(
    scheme: Scheme, claimed: str, ablation: Ablation
) -> None:
    """A record of it would name a scheme under which nothing that it signs verifies."""
    key = listed(scheme)
    with pytest.raises(Refused) as told:
        schemes.written(said(key, scheme=claimed))
    assert told.value.got == scheme
    with ablation("the comparison with the key's own scheme") as attack:
        attack.without("pki.schemes.scheme_of", lambda _: schemes._IN_METADATA[claimed])
        attack.succeeded(schemes.written(said(key, scheme=claimed))[0] != scheme)


def rsa_pem() -> str:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("public", ["not a key", "ä", "", rsa_pem()])
def test_other_text_is_no_key(public: str) -> None:
    key = listed("ecdsa-p256")
    shown = SSlibKey(key.keyid, key.keytype, key.scheme, {"public": public})
    with pytest.raises(Refused):
        schemes.written(shown)


def test_a_scheme_that_we_do_not_use_is_refused() -> None:
    with pytest.raises(Refused) as told:
        schemes.written(said(listed("ecdsa-p256"), scheme="rsassa-pss-sha256"))
    assert "ml-dsa-65" in told.value.expected


@pytest.mark.misuse
def test_a_plaintext_is_ours_alone_and_a_sealed_file_is_for_all(
    tmp_path: Path, ablation: Ablation
) -> None:
    before = os.umask(0)
    try:
        secretfiles.write_sealed(tmp_path / "a.sealed.json", b"sealed")
        secretfiles.write_plaintext(tmp_path / "plain", b"secret")
        modes = [(tmp_path / n).stat().st_mode & 0o777 for n in ("a.sealed.json", "plain")]
        assert modes == [0o644, 0o600]
        for write in (secretfiles.write_sealed, secretfiles.write_plaintext):
            with pytest.raises(EmbrasureError) as told:
                write(tmp_path / "plain", b"other bytes")
            assert told.value.reason == "exists"
        assert (tmp_path / "plain").read_bytes() == b"secret"
        with ablation("the mode that a plaintext is made with") as attack:
            (tmp_path / "open").write_bytes(b"secret")
            attack.succeeded((tmp_path / "open").stat().st_mode & 0o004)
    finally:
        os.umask(before)
