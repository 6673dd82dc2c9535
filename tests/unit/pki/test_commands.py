"""The verbs as they are typed: files made, exit codes, one JSON object, no secret anywhere."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from embrasure.cli import main
from embrasure.clock import now
from embrasure.net.profile import check_leaf
from embrasure.trust.folder import FolderSource
from pki import ca, keyfile
from pki.folder import TrustFolder
from tests.ablation import Ablation
from tests.simulate import ceremony

SECRET = ceremony.PASSPHRASE.decode()
Output = pytest.CaptureFixture[str]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="session")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust folder made by today's clock, never changed."""
    path = tmp_path_factory.mktemp("today") / "trust"
    trust = ceremony.hold(path, now)
    ceremony.add_environment(trust, "prod", now)
    ceremony.sign_and_merge(trust, "alice", "bob", at=now())
    return path


def call(*words: object, code: int = 0) -> None:
    assert main([str(word) for word in words]) == code


def answer(output: Output, *words: object, code: int = 0) -> dict[str, object]:
    call(*words, "--json", code=code)
    out, error = output.readouterr()
    assert SECRET not in out + error
    return dict(json.loads(out if code == 0 else error))


def test_a_key_is_made_shown_and_opens_under_a_new_passphrase(
    tmp_path: Path, secret: Path, capsys: Output
) -> None:
    words = ["keys", "generate", "anna", "--out", tmp_path / "keys", "--passphrase-file", secret]
    made = answer(capsys, *words)
    key, public = tmp_path / "keys" / "anna.key", tmp_path / "keys" / "anna.pub"
    assert (key.stat().st_mode & 0o777, public.stat().st_mode & 0o777) == (0o600, 0o644)
    assert SECRET.encode() not in key.read_bytes()
    for file in (key, public):
        shown = answer(capsys, "keys", "show", file)
        assert (shown["keyid"], shown["purpose"]) == (made["keyid"], "operator")
    new = tmp_path / "new"
    new.write_text("another good phrase")
    new.chmod(0o600)
    words = ["--passphrase-file", secret, "--new-passphrase-file", new]
    answer(capsys, "keys", "passphrase", key, *words)
    assert keyfile.open_bytes(key.read_bytes(), b"another good phrase").header.label == "anna"
    answer(capsys, "keys", "passphrase", key, *words, code=3)


def test_a_key_file_is_never_overwritten(tmp_path: Path, secret: Path, capsys: Output) -> None:
    words = ["keys", "generate", "anna", "--out", tmp_path, "--passphrase-file", secret]
    answer(capsys, *words)
    before = (tmp_path / "anna.key").read_bytes()
    assert answer(capsys, *words, code=4)["reason"] == "E_EXISTS"
    assert (tmp_path / "anna.key").read_bytes() == before


def test_a_key_can_be_bound_to_its_fleet_when_it_is_made(
    today: Path, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    words = ["--anchor", today / "anchor.json", "--out", tmp_path, "--passphrase-file", secret]
    made = answer(capsys, "keys", "generate", "anna", *words)
    assert made["root"] == TrustFolder.open(today).root_id


@pytest.mark.parametrize("name", ["Anna", "../anna", "", "a b", "a/b"])
def test_a_name_that_is_none_is_a_usage_error(
    name: str, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    words = ["--out", tmp_path / "out", "--passphrase-file", secret]
    answer(capsys, "keys", "generate", name, *words, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.misuse
def test_a_short_passphrase_makes_no_key(
    tmp_path: Path, secret: Path, capsys: Output, ablation: Ablation
) -> None:
    secret.write_text("short")
    words = ["keys", "generate", "anna", "--out", tmp_path, "--passphrase-file", secret]
    answer(capsys, *words, code=2)
    assert not (tmp_path / "anna.key").exists()
    with ablation("the least length of a passphrase") as attack:
        attack.without("pki.keyfile.check_passphrase")
        answer(capsys, *words)
        attack.succeeded(keyfile.open_bytes((tmp_path / "anna.key").read_bytes(), b"short").signer)


def test_no_verb_takes_a_passphrase_as_an_argument(capsys: Output) -> None:
    for words in (["keys", "generate", "x"], ["pki", "init", "d"], ["trust", "sign", "d"]):
        call(*words, "--passphrase", SECRET, code=2)
        assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("identity", "role"),
    [
        ("mirror/m1", "mirror"),
        ("letterbox/l1", "letterbox"),
        ("gateway/g1", "gateway"),
        ("gateway-admin/g1", "gateway-admin"),
    ],
)
def test_a_service_gets_a_key_and_a_chain(
    identity: str, role: str, today: Path, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    out = tmp_path / "tls"
    answer(capsys, "pki", "issue", identity, today, "--out", out, "--passphrase-file", secret)
    assert (out / "tls.key").stat().st_mode & 0o777 == 0o600
    leaf, issuer = x509.load_pem_x509_certificates((out / "tls.crt").read_bytes())
    found = check_leaf(leaf, role=role, issuers=[issuer], domain="example.org", at=now())  # type: ignore[arg-type]  # roles by parameter
    assert str(found) == identity
    assert sorted(file.name for file in out.iterdir()) == ["tls.crt", "tls.key"]


def test_an_operator_gets_a_context_that_names_the_key_from_where_it_lies(
    today: Path, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    out, key = tmp_path / "anna", tmp_path / "keys" / "anna.key"
    key.parent.mkdir()
    key.touch()
    words = ["--out", out, "--gateway", "127.0.0.1:7443", "--key", key]
    answer(capsys, "pki", "issue", "operator/anna", today, *words, "--passphrase-file", secret)
    context = tomllib.loads((out / "context.toml").read_text())
    assert context["key"] == "keyfile:../keys/anna.key"
    assert context["person"] == "anna" and context["gateway"] == "127.0.0.1:7443"
    assert (out / context["anchor"]).read_bytes() == (today / "anchor.json").read_bytes()
    issuer = ca.parse_certificate((out / context["admin_issuer"]).read_bytes())
    assert issuer == TrustFolder.open(today).certificate("admin")


def test_a_request_is_certified_without_making_a_key(
    today: Path, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    (tmp_path / "csr").write_bytes(request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    out = tmp_path / "tls"
    words = ["--out", out, "--csr", tmp_path / "csr", "--passphrase-file", secret]
    answer(capsys, "pki", "issue", "mirror/m1", today, *words)
    leaf = x509.load_pem_x509_certificates((out / "tls.crt").read_bytes())[0]
    assert leaf.public_key() == key.public_key() and not (out / "tls.key").exists()


@pytest.mark.parametrize("identity", ["node/n1", "root/r1", "mirror", "mirror/M1", "mirror/*"])
def test_other_identities_are_not_issued(
    identity: str, today: Path, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    words = ["--out", tmp_path / "tls", "--passphrase-file", secret]
    answer(capsys, "pki", "issue", identity, today, *words, code=2)
    assert not (tmp_path / "tls").exists()


def test_the_trust_folder_shows_and_verifies(today: Path, capsys: Output) -> None:
    shown = answer(capsys, "trust", "show", today)
    assert shown["drafts"] == []
    verified = answer(capsys, "trust", "verify", today, "--root", today / "anchor.json")
    assert verified["ok"] is True and verified["roles"] == shown["roles"]
    call("trust", "show", today)
    text = capsys.readouterr().out
    assert "targets v2: 2 of alice, bob, carl; signed by alice, bob" in text


@pytest.mark.misuse
def test_another_fleets_anchor_does_not_verify_this_folder(
    today: Path, first: Path, capsys: Output, ablation: Ablation
) -> None:
    other = first / "anchor.json"
    told = answer(capsys, "trust", "verify", today, "--root", other, code=4)
    assert told["reason"] == "E_IDENTITY"
    with ablation("an anchor from elsewhere") as attack:
        # A folder that is compared with itself alone always verifies.
        attack.succeeded(answer(capsys, "trust", "verify", today)["ok"])


@pytest.mark.misuse
def test_an_expired_role_does_not_verify(
    tmp_path: Path, capsys: Output, ablation: Ablation
) -> None:
    ceremony.hold(tmp_path / "trust", lambda: now() - timedelta(days=31))
    told = answer(capsys, "trust", "verify", tmp_path / "trust", code=4)
    assert told["reason"] == "E_EXPIRED"
    assert "trust renew" in str(told["hint"])
    with ablation("the refusal of an expired role") as attack:
        # The layer below tells it, and leaves it to its caller.
        found = TrustFolder.open(tmp_path / "trust").verify(now())
        attack.succeeded([one.role for one in found if one.expired] == ["revocations"])


def test_a_folder_that_is_none_is_a_usage_error(tmp_path: Path, capsys: Output) -> None:
    for words in (["show"], ["verify"], ["merge"], ["discard", "--role", "targets"]):
        assert "pki init" in str(answer(capsys, "trust", *words, tmp_path, code=2)["hint"])


def test_a_folder_with_files_is_not_made_a_trust_folder(
    today: Path, secret: Path, capsys: Output
) -> None:
    words = ["--domain", "example.org", "--keyholder", "alice", "--threshold", "1", "--generate"]
    told = answer(capsys, "pki", "init", today, *words, "--passphrase-file", secret, code=2)
    assert "empty folder" in str(told["expected"])


@pytest.mark.parametrize(
    ("holders", "threshold"),
    [(["alice"], 2), (["alice", "alice"], 1), (["Alice"], 1), (["nobody.pub"], 1)],
)
def test_keyholders_that_cannot_hold_the_root_are_refused(
    holders: list[str], threshold: int, tmp_path: Path, secret: Path, capsys: Output
) -> None:
    named = [word for name in holders for word in ("--keyholder", name)]
    words = ["--domain", "example.org", *named, "--threshold", threshold, "--generate"]
    code = 5 if holders == ["nobody.pub"] else 2
    answer(capsys, "pki", "init", tmp_path / "t", *words, "--passphrase-file", secret, code=code)
    assert not (tmp_path / "t").exists()


def test_private_keys_of_a_trust_folder_are_private_and_encrypted(today: Path) -> None:
    for file in [*today.glob("**/*.key")]:
        assert file.stat().st_mode & 0o077 == 0, file
        raw = file.read_bytes()
        assert b"PRIVATE KEY" not in raw
        if file.name != "collect.key":
            assert keyfile.header_of(raw).root == TrustFolder.open(today).root_id
    for folder, _, _ in os.walk(today):
        assert Path(folder).stat().st_mode & 0o077 == 0, folder


@pytest.mark.misuse
def test_a_trust_folder_served_as_a_repository_gives_no_key_away(
    today: Path, ablation: Ablation
) -> None:
    source = FolderSource(today)
    for file in today.glob("**/*.key"):
        path = file.relative_to(today).as_posix()
        with pytest.raises(Exception, match="repository path"):
            b"".join(source.fetch(path, offset=0, limit=65536))
    with ablation("the grammar of repository paths") as attack:
        attack.without("embrasure.trust.folder.layout.parse_file")
        attack.succeeded(b"".join(source.fetch(path, offset=0, limit=65536)) == file.read_bytes())


def test_a_second_tool_waits_for_the_first(
    today: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embrasure.limits.LOCK_SECONDS", 0.05)
    with TrustFolder.open(today).lock():
        assert answer(capsys, "trust", "merge", today, code=5)["reason"] == "E_BUSY"
