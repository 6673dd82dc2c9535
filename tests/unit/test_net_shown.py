"""What a server shows: read whole or refused, whatever the bytes are, before anything is said."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from embrasure.clock import now
from embrasure.errors import Refused, Unavailable
from embrasure.net.certificates import load_certificates, load_der, load_shown
from embrasure.net.dial import HttpsClient, Server
from embrasure.net.door_dial import DoorServer
from embrasure.net.seen import seen_leaf
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Issuer, Leaf
from tests.simulate.badserver import bad_server, says
from tests.simulate.listener import trust_from

AUTHORITY = Authority()
TRUST = trust_from(AUTHORITY)
HELLO = says("200 OK\nContent-Length: 5", b"hello")


def sequence(*members: bytes) -> bytes:
    body = b"".join(members)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def of_version_8(leaf: Leaf, issuer: Issuer) -> bytes:
    """Return the DER of `leaf` as of a version that X.509 does not have, signed by its issuer."""
    tbs = leaf.certificate.tbs_certificate_bytes
    forged = tbs.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    assert forged != tbs
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    signature = issuer.key.sign(forged, ec.ECDSA(hashes.SHA256()))
    bits = b"\x03" + bytes([len(signature) + 1]) + b"\x00" + signature
    return sequence(forged, algorithm, bits)


def forged(role: str, name: str, issuer: str) -> Leaf:
    """Return what a server shows whose issuer signed nonsense; OpenSSL takes it."""
    honest = AUTHORITY.leaf(role, name)
    pem = ssl.DER_cert_to_PEM_cert(of_version_8(honest, AUTHORITY.issuers[issuer])).encode()
    return replace(honest, chain_pem=pem + AUTHORITY.issuers[issuer].pem)


def look(dial: str, address: str) -> object:
    """Go to a server in one of the three ways that read its certificate."""
    if dial == "seen":
        return seen_leaf(address, "gateway-admin", TRUST)
    server = Server(address, "mirror", "m1", TRUST)
    if dial == "door":
        server = DoorServer(address, "mirror", "m1", TRUST, roots=[AUTHORITY.root.certificate])
    client = HttpsClient(server)
    try:
        with client.ask("GET", "metadata/2.root.json") as answer:
            return client.read_small(answer, limit=10)
    finally:
        client.close()


@pytest.mark.misuse
@pytest.mark.parametrize("dial", ["mirror", "door", "seen"])
def test_a_certificate_of_no_version_is_refused_as_one(
    dial: str, tmp_path: Path, ablation: Ablation
) -> None:
    """`cryptography` says it by an error that is no ValueError: the caller would die of it."""
    leaf = (
        forged("gateway-admin", "g1", "admin")
        if dial == "seen"
        else forged("mirror", "m1", "mirror")
    )
    with bad_server(leaf, tmp_path, HELLO) as port:
        address = f"127.0.0.1:{port}"
        with pytest.raises(Refused) as refused:
            look(dial, address)
        assert refused.value.reason == "certificate"
        with ablation("the list of what a reader of certificates raises") as attack:
            attack.without("embrasure.net.certificates.UNREADABLE", (ValueError,))
            with pytest.raises(x509.InvalidVersion) as escaped:
                look(dial, address)
            attack.succeeded(escaped.value)


@contextlib.contextmanager
def door(folder: Path, *, authority: Authority = AUTHORITY, name: str = "m1") -> Iterator[object]:
    """A client of the door that a mirror of ours has, which believes the roots of `authority`."""
    with bad_server(AUTHORITY.leaf("mirror", "m1"), folder, HELLO) as port:
        server = DoorServer(
            f"127.0.0.1:{port}", "mirror", name, TRUST, roots=[authority.root.certificate]
        )
        client = HttpsClient(server)
        try:
            yield _ask(client)
        finally:
            client.close()


def _ask(client: HttpsClient) -> object:
    try:
        with client.ask("GET", "metadata/2.root.json") as answer:
            return client.read_small(answer, limit=10)
    except Refused as problem:
        return problem.reason


@pytest.mark.misuse
def test_a_door_is_dialled_below_a_ca_root_of_the_fleet_only(
    tmp_path: Path, ablation: Ablation
) -> None:
    with door(tmp_path) as said:
        assert said == b"hello"
    with door(tmp_path, authority=Authority()) as said:
        assert said == "certificate"
    with door(tmp_path, name="m2") as said:
        assert said == "certificate"
    with ablation("the CA roots, which nothing but the fleet's own trust names") as attack:
        stranger = Authority()
        leaf = stranger.leaf("mirror", "m1")
        with bad_server(leaf, tmp_path, HELLO) as port:
            believed = [stranger.root.certificate]
            client = HttpsClient(
                DoorServer(f"127.0.0.1:{port}", "mirror", "m1", TRUST, roots=believed)
            )
            attack.succeeded(_ask(client) == b"hello")
            client.close()


@contextlib.contextmanager
def admin(folder: Path, authority: Authority = AUTHORITY) -> Iterator[tuple[str, Leaf]]:
    """The address of a gateway's listener for people, and what it shows."""
    host = "admin.fleet.example.internal"
    leaf = authority.leaf("gateway-admin", "g1")
    assert host in leaf.certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value.get_values_for_type(x509.DNSName)
    with bad_server(leaf, folder, HELLO) as port:
        yield f"127.0.0.1:{port}", leaf


@pytest.mark.misuse
def test_a_serial_number_below_one_is_refused(ablation: Ablation) -> None:
    leaf = AUTHORITY.leaf("mirror", "m1").certificate
    number = leaf.serial_number.to_bytes((leaf.serial_number.bit_length() + 8) // 8, "big")
    der = leaf.public_bytes(Encoding.DER)
    wrong = der.replace(number, bytes([number[0] | 0x80]) + number[1:], 1)
    assert wrong != der

    def read() -> list[int]:
        pem = ssl.DER_cert_to_PEM_cert(wrong).encode()
        found = [load_shown(wrong, who="m1"), *load_certificates(pem, what="m1")]
        found.append(load_der(base64.b64encode(wrong).decode(), what="m1"))
        return [one.serial_number for one in found]

    for load in (
        lambda: load_shown(wrong, who="m1"),
        lambda: load_certificates(ssl.DER_cert_to_PEM_cert(wrong).encode(), what="m1"),
        lambda: load_der(base64.b64encode(wrong).decode(), what="m1"),
    ):
        with pytest.raises(Refused, match="serial number"):
            load()

    with ablation("the look at the serial number") as attack:
        attack.without("embrasure.net.certificates._numbered", lambda found: found)
        attack.succeeded(max(read()) < 0)


def test_the_leaf_that_a_server_shows_is_seen(tmp_path: Path) -> None:
    with admin(tmp_path) as (address, leaf):
        assert seen_leaf(address, "gateway-admin", TRUST) == leaf.certificate


@pytest.mark.misuse
def test_a_leaf_of_a_strange_issuer_or_a_past_day_is_not_believed(
    tmp_path: Path, ablation: Ablation
) -> None:
    stranger = Authority()
    with admin(tmp_path, stranger) as (address, leaf):
        with pytest.raises(Refused) as refused:
            seen_leaf(address, "gateway-admin", TRUST)
        assert refused.value.reason == "certificate"
        with ablation("the issuers of the role") as attack:
            seen = seen_leaf(address, "gateway-admin", trust_from(stranger))
            attack.succeeded(seen == leaf.certificate)
    with admin(tmp_path) as (address, _), pytest.raises(Refused):
        seen_leaf(address, "gateway-admin", TRUST, clock=lambda: now() + timedelta(days=400))


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        seen_leaf("127.0.0.1:1", "gateway-admin", TRUST)


def test_an_answer_of_another_kind_than_urllib3_s_own_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type says more than the library promises."""
    with bad_server(AUTHORITY.leaf("mirror", "m1"), tmp_path, HELLO) as port:
        client = HttpsClient(Server(f"127.0.0.1:{port}", "mirror", "m1", TRUST))
        monkeypatch.setattr(client._pool, "urlopen", lambda *_, **__: object())
        with pytest.raises(Unavailable), client.ask("GET", "x"):
            pass
        client.close()


def test_a_pem_of_the_root_is_what_a_door_believes() -> None:
    root = AUTHORITY.root.certificate
    context = DoorServer("127.0.0.1:1", "mirror", "m1", TRUST, roots=[root]).context()
    assert context.get_ca_certs(binary_form=True) == [root.public_bytes(Encoding.DER)]
