"""What a thief brings to the log-in port of a real gateway, and what it is worth to him."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from securesystemslib.signer import CryptoSigner

from embrasure.clock import now
from embrasure.errors import EmbrasureError, Refused
from embrasure.trust import layout
from embrasure.trust.documents import write
from embrasure.trust.policy import parse_policy
from embrasure.wire import admin_pb2
from gateway.client import AdminClient
from gateway.logging_in import request_of
from gateway.login_guard import Nonces
from pki import ca
from pki.desk import Desk
from pki.folder import TrustFolder
from pki.leaf import fresh_leaf
from pki.passphrase import PassphraseSource
from tests.ablation import Ablation
from tests.simulate.logindoor import Door, key, log_in_door, refused, with_log_in
from tests.simulate.office import PASSPHRASE, Office, verb
from tests.simulate.running import until


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    return with_log_in(tmp_path_factory.mktemp("office") / "first")


@pytest.fixture
def door(office: Office, tmp_path: Path) -> Iterator[Door]:
    with log_in_door(office.copy(tmp_path / "office")) as found:
        yield found


@pytest.mark.misuse
def test_a_log_in_that_was_seen_once_is_worth_nothing_again(door: Door, ablation: Ablation) -> None:
    csr = request_of(key())
    envelope = door.envelope(door.challenge(), csr, by=door.signer("anna"))
    assert door.certificate(envelope, csr)
    refused(door, envelope, csr)
    with ablation("a nonce counts once") as attack:
        attack.without("gateway.login_guard.check_untaken")
        attack.succeeded(door.certificate(envelope, csr))


@pytest.mark.misuse
def test_a_thief_of_a_signed_log_in_gets_no_certificate_for_his_key(
    door: Door, ablation: Ablation
) -> None:
    honest, stolen = request_of(key()), key()
    envelope = door.envelope(door.challenge(), honest, by=door.signer("anna"))
    refused(door, envelope, request_of(stolen))
    with ablation("the request that was signed") as attack:
        attack.without("gateway.login.check_request")
        again = door.envelope(door.challenge(), honest, by=door.signer("anna"))
        leaf, _ = door.certificate(again, request_of(stolen))
        attack.succeeded(ca.raw_public(leaf.public_key()) == ca.raw_public(stolen.public_key()))


@pytest.mark.misuse
def test_another_gateway_cannot_pass_a_log_in_on(door: Door, ablation: Ablation) -> None:
    trust = TrustFolder.open(door.office.trust)
    source = PassphraseSource(lambda _: PASSPHRASE.encode(), tries=1)
    _, chain = fresh_leaf(trust.issuer("admin", source), "gateway-admin/g2", now)
    liar = x509.load_pem_x509_certificates(chain)[0]
    mallory = key()

    def relayed() -> tuple[bytes, bytes]:
        """Anna talks to the liar; he asks her to sign our nonce and his own request."""
        csr = request_of(mallory)
        return door.envelope(door.challenge(), csr, by=door.signer("anna"), server=liar), csr

    refused(door, *relayed())
    with ablation("the certificate that she saw") as attack:
        attack.without("gateway.login.check_gateway")
        attack.succeeded(door.certificate(*relayed()))


@pytest.mark.misuse
def test_a_key_of_nobody_logs_nobody_in(door: Door, ablation: Ablation) -> None:
    """Alice signs directories: metadata lists her key, and no policy gives it to a person."""
    csr = request_of(key())
    stranger = CryptoSigner.generate_ed25519()
    refused(door, door.envelope(door.challenge(), csr, by=stranger), csr)
    for name in ("anna", "alice"):
        mine = door.envelope(door.challenge(), csr, by=door.signer("alice"), person=name)
        refused(door, mine, csr)
    refused(door, door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
    with ablation("whose key it is") as attack:
        attack.without("gateway.login.check_person")
        mine = door.envelope(door.challenge(), csr, by=door.signer("alice"), person="alice")
        leaf, _ = door.certificate(mine, csr)
        attack.succeeded(b"operator/alice" in ca.der(leaf))


@pytest.mark.misuse
def test_a_policy_alone_gives_nobody_the_name_of_another(door: Door, ablation: Ablation) -> None:
    """A certificate holds in every environment; the keyholders of one must not make it for all."""
    door.context("carl")
    assert door.login("carl").code == 0
    trust = TrustFolder.open(door.office.trust)
    work, path = Desk(trust, now), layout.policy_path("prod")
    rules = parse_policy(work.document("fleet-prod", path))
    keys = {one.id: one.keys for one in rules.people}
    people = tuple(
        msgspec.structs.replace(one, keys=keys["ben"] if one.id == "anna" else one.keys)
        for one in rules.people
        if one.id != "ben"
    )
    work.put("fleet-prod", path, write(msgspec.structs.replace(rules, people=people)))
    work.write()
    for holder in ("alice", "bob"):
        key_file = door.office.trust / "keys" / f"{holder}.key"
        (draft,) = trust.drafts()
        door.office.pki("trust", "sign", trust.path, "--key", key_file, "--no-input",
                        "--confirm-digest", draft.digest)  # fmt: skip
    assert verb("trust", "merge", trust.path).code == 0
    sent = door.office.verb("trust", "submit", trust.path, person="carl")
    assert sent.code == 0, sent.told
    csr = request_of(key())
    refused(door, door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
    with ablation("whose key it is by targets") as attack:
        attack.without("gateway.login.check_owner")
        leaf, _ = door.certificate(door.envelope(door.challenge(), csr, by=door.signer("ben")), csr)
        attack.succeeded(b"operator/anna" in ca.der(leaf))


@pytest.mark.misuse
def test_a_denied_key_logs_nobody_in(door: Door, ablation: Ablation) -> None:
    for person in ("anna", "ben"):
        door.context(person)
        assert door.login(person).code == 0
    signer = door.signer("anna")
    keyid = signer.public_key.keyid
    office = door.office
    office.pki("trust", "revoke", office.trust, "--env", "prod", "--key", keyid,
               *office.signs()[:2])  # fmt: skip
    sent = office.verb("trust", "submit", office.trust, person="ben")
    assert sent.code == 0, sent.told
    csr = request_of(key())
    refused(door, door.envelope(door.challenge(), csr, by=signer), csr)
    inside = office.verb("status", person="anna")
    assert (inside.code, inside.error["got"]) == (3, "denied keys only")
    assert office.verb("status", person="ben").code == 0
    (mine,) = office.verb("whoami", person="anna").body["roles"]
    assert (mine["rights"], mine["keys"]) == ([], [{"id": keyid, "denied": True}])
    (other,) = office.verb("whoami", person="ben").body["roles"]
    assert "start" in other["rights"] and not other["keys"][0]["denied"]
    with ablation("denied keys, for whoever is inside already") as attack:
        attack.without("gateway.people.check_has_key")
        attack.succeeded(office.verb("status", person="anna").code == 0)
    with ablation("denied keys") as attack:
        attack.without("gateway.login.check_not_denied")
        attack.succeeded(door.certificate(door.envelope(door.challenge(), csr, by=signer), csr))


@pytest.mark.misuse
def test_a_nonce_is_ours_and_young(door: Door, ablation: Ablation) -> None:
    time = [1000.0]
    nonces, others = Nonces(lambda: time[0]), Nonces(lambda: time[0])
    csr = request_of(key())
    refused(door, door.envelope(others.fresh(), csr, by=door.signer("anna")), csr)
    young = nonces.fresh()
    time[0] += 59
    nonces.take(young)
    old = nonces.fresh()
    time[0] += 61
    with pytest.raises(Refused, match="an older one"):
        nonces.take(old)
    changed = (2**63).to_bytes(8, "big") + old[8:]
    with pytest.raises(Refused, match="got another"):
        nonces.take(changed)
    with ablation("the age of a nonce") as attack:
        attack.without("gateway.login_guard.check_age")
        nonces.take(old)
        attack.succeeded(True)


@pytest.mark.misuse
def test_a_stream_ends_when_the_key_of_its_reader_is_denied(door: Door, ablation: Ablation) -> None:
    office = door.office
    for person in ("anna", "ben"):
        door.context(person)
        assert door.login(person).code == 0

    def follow(lines: list[dict[str, object]], ended: list[EmbrasureError]) -> threading.Thread:
        def run() -> None:
            request = admin_pb2.AuditQuery(since=0, follow=True)
            with AdminClient.open(office.context("anna")) as client:
                try:
                    for line in client.stream("Audit", request):
                        lines.append(line)
                except EmbrasureError as problem:
                    ended.append(problem)

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        return worker

    lines: list[dict[str, object]] = []
    ended: list[EmbrasureError] = []
    worker = follow(lines, ended)
    until(lambda: lines or None)
    keyid = door.signer("anna").public_key.keyid
    office.pki("trust", "revoke", office.trust, "--env", "prod", "--key", keyid,
               *office.signs()[:2])  # fmt: skip
    assert office.verb("trust", "submit", office.trust, person="ben").code == 0
    worker.join(10)
    assert not worker.is_alive() and ended[0].reason == "denied"
    with ablation("the look at each turn of a stream") as attack:
        attack.without("gateway.people.check_has_key")
        seen: list[dict[str, object]] = []
        follow(seen, [])
        attack.succeeded(until(lambda: seen or None))
