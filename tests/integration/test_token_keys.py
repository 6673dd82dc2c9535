"""Keys in a PKCS#11 token (SoftHSM2) where a fleet needs them: TLS, CAs, a person's approval."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.net.credentials import ServerKeys, channel
from embrasure.net.denials import key_digest
from embrasure.net.heldkey import ECDSA_P256_SHA256, handshake_signer
from embrasure.net.trustbundle import Trust, TrustHolder
from gateway import metadata as form
from gateway.certificates import Certificates
from gateway.run import _renew as renewing
from pki import ca, outsidekeys, signers
from pki.folder import TrustFolder
from pki.keyuri import TokenUri, keyfile_path
from pki.passphrase import PassphraseSource
from pki.signerkey import SignerKey
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.ceremony import NewNode
from tests.simulate.engine import SimEngine, SimFleet, until
from tests.simulate.listener import METHODS, Listener, call, listening
from tests.simulate.office import APP, ENV, PASSPHRASE, Office
from tests.simulate.softhsm import SoftHsm

LABELS = itertools.count()
CAS = ("root", "gateway", "admin", "node", "mirror", "operator")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def source() -> PassphraseSource:
    return PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)


@pytest.fixture
def token(hsm: SoftHsm) -> str:
    return hsm.token(f"fleet-{next(LABELS)}", pin=PASSPHRASE.encode())


def make(token: str, name: str, number: int, purpose: str, out: Path) -> str:
    """Return the URI of a new key in the token."""
    uri = TokenUri(number, token)
    outsidekeys.generate(
        name, uri, out, purpose=purpose, scheme="ecdsa-p256", anchor=None, passphrase=source()
    )
    return uri.plain


def held_key(token: str, out: Path, number: int = 2) -> SignerKey:
    uri = make(token, "g1", number, "tls", out)
    return SignerKey(signers.open_signer(uri, source(), purpose="tls"))


def dial(listener: Listener, key: ec.EllipticCurvePrivateKey, chain: bytes) -> grpc.aio.Channel:
    return channel(
        f"127.0.0.1:{listener.port}",
        role="node",
        name="n1",
        domain=listener.authority.domain,
        issuer_pems=listener.authority.issuer_pem("node"),
        key=key,
        chain_pem=chain,
    )


# --- the key of a caller ---------------------------------------------------------------------


def test_grpc_means_by_its_number_what_we_mean() -> None:
    from grpc import experimental

    known = experimental.PrivateKeySignatureAlgorithm
    assert int(known.ECDSA_SECP256R1_SHA256) == ECDSA_P256_SHA256
    assert callable(experimental.ssl_channel_credentials_with_custom_signer)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("kind", METHODS)
def test_a_gateway_whose_key_is_in_a_token_calls_every_kind_of_method(
    token: str, tmp_path: Path, authority: Authority, kind: str
) -> None:
    key = held_key(token, tmp_path)
    leaf = authority.leaf("gateway", "g1", public=key.public_key())

    async def work() -> None:
        async with listening(authority) as listener:
            async with dial(listener, key, leaf.chain_pem) as line:
                await call(line, kind, METHODS[kind])
            assert listener.handlers.callers == ["gateway/g1"]

    run(work())


def test_a_handshake_by_a_token_costs_milliseconds(
    token: str, tmp_path: Path, authority: Authority
) -> None:
    key = held_key(token, tmp_path)
    leaf = authority.leaf("gateway", "g1", public=key.public_key())
    began, count = time.process_time(), 20
    for _ in range(count):
        key.sign(b"x", ec.ECDSA(hashes.SHA256()))
    print(f"figure: token_signature = {(time.process_time() - began) / count * 1000:.2f} ms CPU")

    async def work() -> None:
        async with listening(authority) as listener:
            began = time.process_time()
            for _ in range(count):
                async with dial(listener, key, leaf.chain_pem) as line:
                    await call(line, "unary_unary", METHODS["unary_unary"])
            spent = (time.process_time() - began) / count * 1000
            print(f"figure: dial_by_token = {spent:.2f} ms CPU, both sides")
            assert spent < 1000

    run(work())


@pytest.mark.misuse
def test_a_token_key_without_its_certificate_does_not_dial(
    token: str, tmp_path: Path, authority: Authority, ablation: Ablation
) -> None:
    key = held_key(token, tmp_path)
    stolen = authority.leaf("gateway", "g1").chain_pem

    async def work() -> None:
        async with listening(authority) as listener:
            with pytest.raises(Refused) as told:
                dial(listener, key, stolen)
            assert told.value.reason == "pair"
            with ablation("the comparison of key and certificate") as attack:
                attack.without("embrasure.net.credentials.check_held")
                # It goes out to the network, and is told nothing but that the line broke.
                with pytest.raises(grpc.aio.AioRpcError) as found:
                    async with dial(listener, key, stolen) as line:
                        await call(line, "unary_unary", METHODS["unary_unary"])
                attack.succeeded(found.value.code() is grpc.StatusCode.UNAVAILABLE)
            assert not listener.handlers.callers

    run(work())


@pytest.mark.misuse
def test_a_token_key_signs_handshakes_of_one_algorithm_only(
    token: str, tmp_path: Path, ablation: Ablation
) -> None:
    key = held_key(token, tmp_path)
    sign = handshake_signer(key)
    key.public_key().verify(
        sign(b"transcript", ECDSA_P256_SHA256, None), b"transcript", ec.ECDSA(hashes.SHA256())
    )
    with pytest.raises(Refused):
        sign(b"transcript", 4, None)
    with ablation("the comparison of the algorithm") as attack:
        attack.succeeded(key.sign(b"transcript", ec.ECDSA(hashes.SHA256())))


def test_a_token_that_does_not_sign_ends_the_handshake(
    hsm: SoftHsm, token: str, tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    from pki import tokens

    key = held_key(token, tmp_path)
    leaf = authority.leaf("gateway", "g1", public=key.public_key())
    with tokens.session(tokens.find(TokenUri(2, token)), PASSPHRASE.encode(), write=True) as opened:
        for item in list(opened.get_objects()):
            item.destroy()

    async def work() -> None:
        async with listening(authority) as listener:
            with pytest.raises(grpc.aio.AioRpcError) as found:
                async with dial(listener, key, leaf.chain_pem) as line:
                    await call(line, "unary_unary", METHODS["unary_unary"])
            assert found.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not listener.handlers.callers

    run(work())
    assert "did not sign" in caplog.text


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """The gateway's identity with its key in a token."""

    key: SignerKey
    chain: bytes

    def client(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        return self.key, self.chain


def test_a_release_reaches_nodes_that_are_dialled_with_a_token_key(
    token: str, tmp_path: Path
) -> None:
    key, fleet = held_key(token, tmp_path), SimFleet.make(3)
    leaf = fleet.authority.leaf("gateway", "g1", public=key.public_key())

    async def work() -> None:
        async with fleet.listening():
            host = SimEngine(tmp_path, fleet, identity=TokenIdentity(key, leaf.chain_pem))
            async with host.running() as engine:
                plan = host.approved("1.0")
                name = await engine.start("dev", "shop", plan, by="anna")
                await until(lambda: engine.status(name)["state"] == "succeeded")
                assert all(agent.installs == {plan: 1} for agent in fleet.push())

    run(work())


# --- a whole fleet ---------------------------------------------------------------------------


def office_of(token: str, folder: Path) -> Office:
    """Every CA key, a keyholder's and an operator's key in the token; the others in files."""
    folder.mkdir()
    office, out = Office(folder), folder / "public"
    office.passphrase.write_text(PASSPHRASE + "\n")
    office.passphrase.chmod(0o600)
    cas = [
        word
        for number, name in enumerate(CAS, start=10)
        for word in ("--ca-key", f"{name}={make(token, f'{name}-ca', number, 'ca', out)}")
    ]
    make(token, "alice", 2, "security", out)
    make(token, "anna", 3, "operator", out)
    office.pki("pki", "init", office.trust, "--domain", "office.test", "--keyholder",
               out / "alice.pub", "--keyholder", "bob", "--keyholder", "cora", "--threshold", 2,
               "--generate", "--kdf", "moderate", *cas)  # fmt: skip
    signs = ["--sign", f"hsm:2?label={token}", "--sign", office.trust / "keys" / "bob.key"]
    office.pki("trust", "env", "add", ENV, office.trust, "--kdf", "moderate", *signs)
    office.pki("trust", "app", "add", APP, office.trust, "--env", ENV, "--operator",
               f"anna={out / 'anna.pub'}", "--operator", "ben", "--operator", "carl",
               "--threshold", 2, "--generate", "--kdf", "moderate", *signs)  # fmt: skip
    node = NewNode(TrustFolder.open(office.trust).root_id, 0, domain="office.test")
    statement = folder / "statement.json"
    statement.write_bytes(node.envelope(now()))
    office.pki("pki", "enrol", statement, office.trust, "--out", folder / "answer.json", *signs)
    return office


def test_a_fleet_whose_cas_keyholder_operator_and_tls_key_are_in_a_token(
    token: str, tmp_path: Path
) -> None:
    office = office_of(token, tmp_path / "office")
    trust = TrustFolder.open(office.trust)
    assert not list((office.trust / "ca").glob("*.key"))
    signs = ["--sign", f"hsm:2?label={token}", "--sign", office.trust / "keys" / "bob.key"]
    online = {
        role: make(token, role, number, "online", tmp_path)
        for number, role in enumerate(("snapshot", "timestamp", f"gates-{ENV}"), start=30)
    }
    named = [word for role, uri in online.items() for word in ("--key", f"{role}={uri}")]
    office.pki("pki", "online", "rotate", *online, office.trust, *named, *signs)
    tls = make(token, "g1", 20, "tls", tmp_path)
    assert office.init().code == 0
    config = office.gateway_folder / "gateway.toml"
    config.write_text(f'tls_key = "{tls}"\n' + config.read_text())
    assert office.init().code == 0  # what was said by hand stays
    with office.gateway() as running:
        for person, key in (
            ("anna", f"hsm:3?label={token}"),
            ("ben", f"{office.trust}/keys/ben.key"),
            ("carl", f"{office.trust}/keys/carl.key"),
        ):
            office.pki("pki", "issue", f"operator/{person}", office.trust, "--out",
                       office.folder / person, "--gateway", f"127.0.0.1:{running.port}",
                       "--key", key)  # fmt: skip
        published = office.gateway_folder / "repository" / "metadata"
        for role, file in (("snapshot", "*.snapshot.json"), ("timestamp", "timestamp.json")):
            (signed,) = [json.loads(path.read_text()) for path in published.glob(file)][-1:]
            keys = [one["keyid"] for one in signed["signatures"]]
            assert keys == [signers.facts_of(online[role]).keyid]
        proposed = office.propose(person="ben")
        assert proposed.code == 0, proposed.told
        first = office.approve(proposed.body["plan"], person="anna")
        assert first.body["state"] == "pending_approval", first.told
        second = office.approve(proposed.body["plan"], person="carl")
        assert (second.code, second.body["approved_by"]) == (0, ["anna", "carl"])
        held, chain = running.held.certificates.client()
        assert isinstance(held, SignerKey)
        leaf = running.held.certificates.leaves()[-1]
        assert leaf.public_key() == held.public_key() and chain
        # A denied key is not shown again; in memory a new one would be made, here nobody can.
        running.held.certificates.drop({key_digest(leaf)})
        with pytest.raises(Denied):
            running.held.certificates.client()
    assert signers.facts_of(f"hsm:3?label={token}").root == trust.root_id


def emptied(token: str) -> None:
    """The token holds nothing any more."""
    from pki import tokens

    where = tokens.find(TokenUri(2, token))
    with tokens.session(where, PASSPHRASE.encode(), write=True) as opened:
        for item in list(opened.get_objects()):
            item.destroy()


def test_an_online_key_that_is_gone_is_said_as_what_it_is(token: str, tmp_path: Path) -> None:
    uri = make(token, "snapshot", 2, "online", tmp_path)
    signer = signers.open_signer(uri, source(), purpose="online")
    made = form.make_snapshot({"targets": 1}, version=1, at=now())
    assert form.sign(made, signer, role="snapshot")
    emptied(token)
    with pytest.raises(EmbrasureError, match=f"token '{token}'"):
        form.sign(made, signer, role="snapshot")


def test_a_gateway_whose_issuers_token_is_gone_for_a_moment_goes_on(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its certificate is good for days; without the token no other could be made."""
    uri = make(token, "admin-ca", 2, "ca", tmp_path)
    key = SignerKey(signers.open_signer(uri, source(), purpose="ca"))
    start = now()
    root = ca.make_root(key, domain="example.org", at=start)
    made = ca.make_issuer(
        "admin", key.public_key(), root=root, root_key=key, domain="example.org", at=start
    )
    issuer = ca.Issuer("admin", "example.org", made, key)
    clock = iter([start, start, start, *[start + timedelta(days=5)] * 50])
    certificates = Certificates("g1", gateway=issuer, admin=issuer, clock=lambda: next(clock))
    keys = ServerKeys(certificates.admin(), TrustHolder(Trust("example.org", {}, None)), roles=[])
    before = keys.pair
    emptied(token)
    monkeypatch.setattr("gateway.run.RENEW_SECONDS", 0.01)

    async def work() -> None:
        job = asyncio.ensure_future(renewing([keys], certificates))
        await until(lambda: "keeps its certificate" in caplog.text)
        assert not job.done() and keys.pair is before
        job.cancel()

    run(work())


@pytest.mark.misuse
def test_a_ca_key_of_another_fleet_makes_no_ca_here(
    token: str, tmp_path: Path, ablation: Ablation
) -> None:
    from pki import keyrecords
    from pki.authorities import Authorities, outside_keys

    uri = make(token, "node-ca", 5, "ca", tmp_path)
    keyrecords.bind(keyrecords.at(uri), "a" * 64)
    outside = outside_keys([f"node={uri}"], source())
    with pytest.raises(Denied) as told:
        outside.keep(tmp_path, "b" * 64)
    assert told.value.reason == "key-root"
    with ablation("the fleet of the key's record") as attack:
        attack.without("pki.keyrecords.check_use")
        Authorities(outside.records).keep(tmp_path, "b" * 64)
        attack.succeeded((tmp_path / "node.json").exists())


@pytest.mark.parametrize("text", ["node", "nobody=hsm:5", "node="])
def test_a_ca_key_is_named_by_its_ca(hsm: SoftHsm, text: str) -> None:
    from pki.authorities import outside_keys

    with pytest.raises(EmbrasureError):
        outside_keys([text], source())


def test_one_key_for_two_cas_is_refused(token: str, tmp_path: Path) -> None:
    from pki.authorities import outside_keys

    uri = make(token, "node-ca", 5, "ca", tmp_path)
    with pytest.raises(EmbrasureError, match="a key of its own"):
        outside_keys([f"node={uri}", f"mirror={uri}"], source())


def test_a_key_file_path_is_a_files_alone() -> None:
    with pytest.raises(EmbrasureError):
        keyfile_path("keyrecord:x.json")
