"""Signers by URI: which are opened, which keys may do what, and keys of authorities."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from securesystemslib.signer import CryptoSigner, Signer

from embrasure.errors import Denied, Misuse, NotFound, NotSupported, Refused
from pki import keyfile, keyuri, services, signers
from pki.passphrase import PassphraseSource
from pki.signers import SignerKey
from tests.ablation import Ablation

PASSPHRASE = b"correct horse battery"
FLEET, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def raw() -> bytes:
    private = keyfile.generate("ed25519")
    return keyfile.seal(
        private, PASSPHRASE, purpose="security", label="alice", root=FLEET, salt=b"s" * 16
    )


@pytest.fixture
def uri(raw: bytes, tmp_path: Path) -> str:
    file = tmp_path / "alice.key"
    file.write_bytes(raw)
    file.chmod(0o600)
    return f"keyfile:{file}"


@pytest.mark.parametrize("scheme", ["sigstore", "gnupg", "tkey"])
def test_a_back_end_that_we_do_not_use_says_so(scheme: str) -> None:
    with pytest.raises(NotSupported):
        signers.open_signer(f"{scheme}:somewhere", lambda _: b"")


@pytest.mark.parametrize("uri", ["hsm:2", "awskms:x", "azurekms:x", "gcpkms:x", "hv:x/1"])
def test_a_key_outside_files_needs_a_record(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBRASURE_KEYS", str(tmp_path))
    with pytest.raises(NotFound) as told:
        signers.open_signer(uri, lambda _: b"")
    assert told.value.reason == "key-record"


@pytest.mark.parametrize(("uri", "extra"), [("azurekms:x", "azurekms"), ("gcpkms:x", "gcpkms")])
def test_a_missing_extra_is_said_with_the_line_to_run(uri: str, extra: str) -> None:
    pytest.importorskip("securesystemslib")
    with pytest.raises(Misuse) as told:
        services.public_at(uri)
    assert told.value.reason == "extra"
    assert told.value.hint == f"pip install 'embrasure[{extra}]'"


@pytest.mark.parametrize(
    "uri",
    [
        "hsm:0",
        "hsm:x",
        "hsm:-1",
        "hsm:99999999999",
        "hsm:2?label=a&label=b",
        "hsm:2?serial=1",
        "hsm:2?label",
        "hsm:2?label=a&module-path=b&pin-source=c&x=d&y=e",
        "hsm:2?label=%ff",
        "hsm:2\n",
        "keyfile:x",
        "hsm:2?" + "a" * 2000,
    ],
)
def test_a_token_uri_that_is_not_one_is_a_usage_error(uri: str) -> None:
    with pytest.raises(Misuse):
        keyuri.parse_token(uri)


def test_a_pin_in_a_uri_is_refused_before_it_is_used() -> None:
    with pytest.raises(Denied) as told:
        keyuri.parse_token("hsm:2?label=a&pin-value=1234")
    assert "1234" not in " ".join(told.value.lines())


@pytest.mark.misuse
def test_a_library_that_others_could_replace_is_not_loaded(
    tmp_path: Path, ablation: Ablation
) -> None:
    library = tmp_path / "p11.so"
    library.write_bytes(b"code of anybody")
    library.chmod(0o666)
    uri = keyuri.TokenUri(module=str(library))
    with pytest.raises(Denied) as told:
        keyuri.module_of(uri)
    assert told.value.reason == "permissions"
    library.chmod(0o644)
    assert keyuri.module_of(uri) == str(library)
    library.chmod(0o666)
    with ablation("the check of who can write the library") as attack:
        attack.without("pki.keyuri.check_unshared")
        attack.succeeded(keyuri.module_of(uri))


def test_a_library_must_be_named_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMBRASURE_PKCS11_MODULE", "PYKCS11LIB"):
        monkeypatch.delenv(name, raising=False)
    for module in ("", "/nowhere/p11.so"):
        with pytest.raises(Misuse):
            keyuri.module_of(keyuri.TokenUri(module=module))


@pytest.mark.misuse
def test_a_key_in_the_clear_is_never_opened(tmp_path: Path, ablation: Ablation) -> None:
    file, key = tmp_path / "key.pem", CryptoSigner.generate_ed25519()
    file.write_bytes(key.private_bytes)
    file.chmod(0o644)
    with pytest.raises(Denied):
        signers.open_signer(f"file2:{file}", lambda _: b"")
    with ablation("the list of back ends") as attack:
        # The library below opens it for whoever can read the file.
        opened = Signer.from_priv_key_uri(f"file2:{file}", key.public_key)
        attack.succeeded(opened.sign(b"x").signature)


@pytest.mark.parametrize("uri", ["", "keyfile:", "alice.key", "https://x", ":"])
def test_what_is_no_signer_uri_is_a_usage_error(uri: str) -> None:
    with pytest.raises(Misuse):
        signers.open_signer(uri, lambda _: b"")


def test_a_missing_key_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        signers.open_signer(f"keyfile:{tmp_path}/none.key", lambda _: b"")


def test_a_plain_path_means_a_key_file(tmp_path: Path) -> None:
    assert signers.as_uri("keys/alice.key") == "keyfile:keys/alice.key"
    assert signers.as_uri("hsm:2") == "hsm:2"
    assert (
        signers.within("keyfile:../keys/a.key", tmp_path / "x") == f"keyfile:{tmp_path}/keys/a.key"
    )


@pytest.mark.misuse
def test_a_key_of_another_fleet_does_not_sign_here(uri: str, ablation: Ablation) -> None:
    with pytest.raises(Denied) as told:
        signers.open_signer(uri, lambda _: PASSPHRASE, root=OTHER)
    assert told.value.reason == "key-root"
    with ablation("the use that a key is bound to") as attack:
        attack.without("pki.signers.check_use")
        attack.succeeded(
            signers.open_signer(uri, lambda _: PASSPHRASE, root=OTHER).sign(b"x").signature
        )


@pytest.mark.misuse
def test_a_security_key_does_not_sign_as_an_operator(uri: str, ablation: Ablation) -> None:
    with pytest.raises(Denied) as told:
        signers.open_signer(uri, lambda _: PASSPHRASE, purpose="operator")
    assert told.value.reason == "key-purpose"
    with ablation("the use that a key is bound to") as attack:
        attack.without("pki.signers.check_use")
        attack.succeeded(
            signers.open_signer(uri, lambda _: PASSPHRASE, purpose="operator").sign(b"x").signature
        )


@pytest.mark.misuse
def test_a_key_file_that_others_can_read_is_not_even_described(
    uri: str, ablation: Ablation
) -> None:
    path = signers.keyfile_path(uri)
    path.chmod(0o640)
    with pytest.raises(Denied):
        signers.facts_of(uri)
    with ablation("the look at its mode") as attack:
        attack.without("embrasure.fs.check_private")
        attack.succeeded(signers.facts_of(uri).label)


def test_a_person_has_three_tries(uri: str) -> None:
    answers = [b"wrong passphrase", b"wrong again, sorry", PASSPHRASE]
    source = PassphraseSource(lambda _: answers.pop(0), tries=3)
    assert signers.open_signer(uri, source).public_key.keyid
    assert not answers


def test_a_file_has_one_try(uri: str) -> None:
    answers = [b"wrong passphrase", PASSPHRASE]
    with pytest.raises(Denied):
        signers.open_signer(uri, PassphraseSource(lambda _: answers.pop(0), tries=1))
    assert answers == [PASSPHRASE]


def test_a_bound_key_is_not_bound_to_a_second_fleet(uri: str) -> None:
    opened = signers.open_key(uri, lambda _: PASSPHRASE)
    assert not signers.bind(uri, opened, FLEET)
    with pytest.raises(Denied):
        signers.bind(uri, opened, OTHER)


def test_an_authoritys_key_signs_and_tells_nothing() -> None:
    key = SignerKey(CryptoSigner.generate_ecdsa())
    data = b"certificate"
    key.public_key().verify(
        key.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256())
    )
    assert key.key_size == 256 and isinstance(key.curve, ec.SECP256R1)
    assert copy.copy(key) is key and copy.deepcopy(key) is key
    with pytest.raises(Denied):
        key.private_numbers()
    with pytest.raises(Denied):
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    with pytest.raises(Denied):
        key.exchange(ec.ECDH(), key.public_key())


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA512(), Prehashed(hashes.SHA256())])  # noqa: S303 - it must be refused
@pytest.mark.misuse
def test_an_authoritys_key_signs_no_bare_digest_and_no_other_hash(
    algorithm: hashes.HashAlgorithm | Prehashed, ablation: Ablation
) -> None:
    digest = b"x" * (20 if isinstance(algorithm, hashes.SHA1) else 32)
    with pytest.raises(Refused):
        SignerKey(CryptoSigner.generate_ecdsa()).sign(digest, ec.ECDSA(algorithm))
    with ablation("the one form that an authority signs") as attack:
        attack.succeeded(ec.generate_private_key(ec.SECP256R1()).sign(digest, ec.ECDSA(algorithm)))


def test_an_ed25519_key_is_no_authoritys_key() -> None:
    with pytest.raises(Refused):
        SignerKey(CryptoSigner.generate_ed25519())
