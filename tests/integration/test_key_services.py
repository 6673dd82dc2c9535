"""Keys in a key service: AWS KMS, as moto serves it over HTTP; what goes wrong is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from embrasure.cli import main
from embrasure.errors import Refused, Unavailable
from pki import outsidekeys, services, signers
from pki.folder import TrustFolder
from pki.outsidekeys import Exported
from tests.ablation import Ablation
from tests.simulate.awskms import AwsKms, aws_kms, teach_digests
from tests.simulate.vault import vault


@pytest.fixture(scope="module")
def server() -> Iterator[AwsKms]:
    with pytest.MonkeyPatch.context() as patch, aws_kms(patch) as found:
        yield found


@pytest.fixture
def kms(server: AwsKms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AwsKms:
    monkeypatch.setenv("EMBRASURE_KEYS", str(tmp_path / "key-records"))
    return server


def export(uri: str, out: Path, name: str = "alice") -> Exported:
    def nobody(what: str) -> bytes:
        raise AssertionError(f"a key service asks for no {what}")

    return outsidekeys.export(uri, name, out, purpose="security", anchor=None, passphrase=nobody)


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_a_key_of_aws_signs_by_its_uri(
    kms: AwsKms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    teach_digests(monkeypatch)
    uri = f"awskms:{kms.key(spec)}"
    made = export(uri, tmp_path)
    opened = signers.open_key(uri, lambda _: b"", purpose="security", root="a" * 64)
    opened.public.verify_signature(opened.signer.sign(b"payload"), b"payload")
    assert made.record.scheme == {"ECC_NIST_P256": "ecdsa-p256"}.get(spec, "ecdsa-p384")


def test_a_keyholder_whose_key_is_at_aws_signs_the_first_root(
    kms: AwsKms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_digests(monkeypatch)
    uri = f"awskms:{kms.key()}"
    export(uri, tmp_path)
    secret, folder = tmp_path / "secret", tmp_path / "trust"
    secret.write_text("correct horse battery")
    secret.chmod(0o600)
    assert main(
        ["pki", "init", str(folder), "--domain", "example.org", "--keyholder",
         str(tmp_path / "alice.pub"), "--keyholder", "bob", "--threshold", "2", "--generate",
         "--kdf", "moderate", "--passphrase-file", str(secret)]
    ) == 0  # fmt: skip
    drafts = TrustFolder.open(folder).drafts()
    confirm = [word for draft in drafts for word in ("--confirm-digest", draft.digest)]
    assert main(["trust", "sign", str(folder), "--key", uri, *confirm]) == 0
    assert main(["trust", "merge", str(folder)]) == 0
    assert main(["trust", "verify", str(folder)]) == 0
    assert signers.facts_of(uri).root == TrustFolder.open(folder).root_id


@pytest.mark.misuse
def test_a_service_that_answers_with_another_signature_is_refused(
    kms: AwsKms, tmp_path: Path, ablation: Ablation
) -> None:
    """moto as it is: it signs something else than what it was given."""
    uri = f"awskms:{kms.key()}"
    export(uri, tmp_path)
    opened = signers.open_key(uri, lambda _: b"", purpose="security")
    with pytest.raises(Refused) as told:
        opened.signer.sign(b"payload")
    assert told.value.reason == "other-key"
    with ablation("the check of each signature") as attack:
        attack.without("pki.checked.check_made")
        attack.succeeded(opened.signer.sign(b"payload").signature)


def test_a_kind_of_key_that_we_do_not_use_is_refused(kms: AwsKms, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="ed25519, ecdsa-p256"):
        export(f"awskms:{kms.key('RSA_2048')}", tmp_path)
    assert not (tmp_path / "alice.pub").exists()


def test_a_key_that_is_not_there_and_a_service_that_is_not_there_are_said(
    kms: AwsKms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable) as told:
        export("awskms:3f9c2a1b-0000-0000-0000-000000000000", tmp_path)
    assert told.value.reason == "key-service" and "NotFoundException" in told.value.got
    uri = f"awskms:{kms.key()}"
    export(uri, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    opened = signers.open_key(uri, lambda _: b"")
    with pytest.raises(Unavailable) as told:
        opened.signer.sign(b"x")
    assert told.value.reason == "key-service"


def test_a_key_of_vault_is_one_version_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in: a later version of the key is another key, and is not taken for it."""
    pytest.importorskip("hvac", reason="needs embrasure[vault]")
    monkeypatch.setenv("EMBRASURE_KEYS", str(tmp_path / "key-records"))
    with vault(monkeypatch) as transit:
        made = export("hv:root", tmp_path)
        assert made.record.uri == "hv:root/2" and made.record.scheme == "ed25519"
        transit.versions.append(Ed25519PrivateKey.generate())
        opened = signers.open_key("hv:root/2", lambda _: b"", purpose="security")
        opened.public.verify_signature(opened.signer.sign(b"payload"), b"payload")
        monkeypatch.setenv("VAULT_TOKEN", "another")
        with pytest.raises(Unavailable) as told:
            signers.open_key("hv:root/2", lambda _: b"").signer.sign(b"x")
        assert "denied" in told.value.got and "another" not in told.value.got


def test_azures_uri_has_one_form() -> None:
    from pki.services import _AZURE

    assert _AZURE.fullmatch("//fleet.vault.azure.net/keys/alice/0123abcd")
    for uri in ("//evil.example/keys/root", "//fleet.vault.azure.net.evil/keys/x", "fleet/root"):
        assert _AZURE.fullmatch(uri) is None
    assert services.explained(ValueError("x"), "hv:a/1").reason == "key-service"
