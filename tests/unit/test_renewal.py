"""A listener's renewal: one key waits, and only its own certificate is ever shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from embrasure import limits
from embrasure.clock import now
from embrasure.errors import Denied, EmbrasureError, Refused
from embrasure.net.certificates import load_certificates
from embrasure.net.credentials import Pair
from embrasure.net.identity import Identity
from embrasure.net.pairfile import read_chain, read_pair, write_pair
from embrasure.net.renewal import TABLE, Renewal, renewal_service, serial_of
from embrasure.net.trustbundle import Trust, TrustHolder, first_trust
from embrasure.wire import renewal_pb2
from gateway.certifying import Certifier
from pki.ca import Issuer
from tests.ablation import Ablation
from tests.simulate.authority import Authority

NODE, OTHER = "n-" + "a" * 26, "n-" + "b" * 26
AUTHORITY, STRANGER = Authority(), Authority()
TRUST = Trust(
    AUTHORITY.domain,
    {"node": (AUTHORITY.issuers["node"].certificate,),
     "mirror": (AUTHORITY.issuers["mirror"].certificate,)},
    None,
)  # fmt: skip


def issuer(name: str = "node", authority: Authority = AUTHORITY) -> Issuer:
    found = authority.issuers[name]
    return Issuer(name, authority.domain, found.certificate, found.key)  # type: ignore[arg-type]  # a name of ours


def signing(authority: Authority = AUTHORITY, *, back: timedelta = timedelta()) -> Certifier:
    names = ("node", "mirror")
    return Certifier(
        {name: issuer(name, authority) for name in names},  # type: ignore[misc]  # names of ours
        lambda: now() - back,
    )


class Listener:
    """What shows a certificate, and remembers what it was told to keep."""

    def __init__(self) -> None:
        leaf = AUTHORITY.leaf("node", NODE)
        self.pair = Pair(leaf.key_pem, leaf.chain_pem)
        self.first = self.pair
        self.seconds = 0.0
        self.renewal = Renewal(
            Identity("node", NODE), TrustHolder(TRUST), serving=lambda: self.pair, keep=self.keep,
            steady=lambda: self.seconds,
        )  # fmt: skip

    def keep(self, pair: Pair) -> None:
        self.pair = pair

    @property
    def is_old(self) -> bool:
        return self.pair is self.first


@pytest.fixture
def listener() -> Listener:
    return Listener()


def test_a_renewal_swaps_key_and_chain_and_is_done_once(listener: Listener) -> None:
    request = listener.renewal.request()
    chain = signing().certify(Identity("node", NODE), request)
    serial = listener.renewal.install(chain)
    assert serial == serial_of(listener.pair) != serial_of(listener.first)
    assert listener.pair.chain_pem == chain
    assert listener.pair.key_pem != listener.first.key_pem
    # The gateway that lost the answer asks again.
    assert listener.renewal.install(chain) == serial


def test_the_service_is_the_renewal(listener: Listener) -> None:
    service = renewal_service(listener.renewal)
    served: Any = service.servicer

    async def course() -> str:
        asked = await served.Csr(renewal_pb2.CsrRequest(), None)
        chain = signing().certify(Identity("node", NODE), asked.request)
        told = await served.Install(renewal_pb2.InstallRequest(chain=chain), None)
        return str(told.serial)

    assert asyncio.run(course()) == serial_of(listener.pair)
    assert {f"/{service.descriptor.full_name}/{m.name}" for m in service.descriptor.methods} == set(
        TABLE
    )


def test_one_key_waits_and_the_request_names_nobody(listener: Listener) -> None:
    request = listener.renewal.request()
    assert listener.renewal.request() == request
    found = x509.load_pem_x509_csr(request)
    assert list(found.subject) == [] and list(found.extensions) == []
    assert b"PRIVATE" not in request


@pytest.mark.misuse
def test_a_key_that_waited_too_long_takes_no_certificate(
    listener: Listener, ablation: Ablation
) -> None:
    request = listener.renewal.request()
    chain = signing().certify(Identity("node", NODE), request)
    listener.seconds = limits.PENDING_KEY_SECONDS + 1.0
    with pytest.raises(Refused) as told:
        listener.renewal.install(chain)
    assert told.value.reason == "no-request" and listener.is_old
    assert listener.renewal.request() != request
    with ablation("the life of a waiting key") as attack:
        late = Listener()
        chain = signing().certify(Identity("node", NODE), late.renewal.request())
        late.seconds = limits.PENDING_KEY_SECONDS + 1.0
        attack.without("embrasure.limits.PENDING_KEY_SECONDS", 10**9)
        attack.succeeded(late.renewal.install(chain))


def another_key(request: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    made = own.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return signing().certify(Identity("node", NODE), made)


def another_name(request: bytes) -> bytes:
    return signing().certify(Identity("node", OTHER), request)


def another_role(request: bytes) -> bytes:
    return signing().certify(Identity("mirror", NODE), request)


def another_authority(request: bytes) -> bytes:
    return signing(STRANGER).certify(Identity("node", NODE), request)


def an_expired_one(request: bytes) -> bytes:
    return signing(back=timedelta(days=8)).certify(Identity("node", NODE), request)


def a_leaf_alone(request: bytes) -> bytes:
    chain = load_certificates(signing().certify(Identity("node", NODE), request), what="x")
    return chain[0].public_bytes(serialization.Encoding.PEM)


def a_false_issuer_behind(request: bytes) -> bytes:
    return a_leaf_alone(request) + STRANGER.issuer_pem("node")


HOSTILE = [
    another_key, another_name, another_role, another_authority, an_expired_one, a_leaf_alone,
    a_false_issuer_behind,
]  # fmt: skip


@pytest.mark.misuse
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_certificate_is_never_shown(
    hostile: Callable[[bytes], bytes], listener: Listener, ablation: Ablation
) -> None:
    chain = hostile(listener.renewal.request())
    with pytest.raises(Refused):
        listener.renewal.install(chain)
    assert listener.is_old
    # And the honest one still comes through.
    honest = signing().certify(Identity("node", NODE), listener.renewal.request())
    assert listener.renewal.install(honest)
    with ablation("the checks of what is installed") as attack:
        bare = Listener()
        chain = hostile(bare.renewal.request())
        attack.without("embrasure.net.renewal.check_chain")
        if hostile is another_key:
            # A second guard stands behind: a pair that does not belong together is none.
            attack.without("embrasure.net.credentials.check_pair")
        bare.renewal.install(chain)
        attack.succeeded(bare.pair.chain_pem == chain)


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused_and_change_nothing(raw: bytes) -> None:
    listener = Listener()
    listener.renewal.request()
    with pytest.raises(EmbrasureError):
        listener.renewal.install(raw)
    assert listener.is_old


def test_a_listener_that_knows_no_issuer_of_its_role_takes_no_certificate() -> None:
    listener = Listener()
    first = first_trust(AUTHORITY.domain, "gateway", (AUTHORITY.issuers["gateway"].certificate,))
    listener.renewal._holder.swap(first)
    chain = signing().certify(Identity("node", NODE), listener.renewal.request())
    with pytest.raises(Refused):
        listener.renewal.install(chain)
    assert listener.is_old


# --- the gateway's side ------------------------------------------------------------------------


def wishful(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a request that asks for a gateway's name, and to be an authority."""
    names = [
        x509.UniformResourceIdentifier(f"spiffe://{AUTHORITY.domain}/gateway/g1"),
        x509.DNSName("*.node.fleet.example.internal"),
    ]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway/g1")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


@pytest.mark.misuse
def test_whatever_else_a_request_asks_for_is_not_even_read(ablation: Ablation) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = wishful(key)
    chain = signing().certify(Identity("node", NODE), request)
    leaf = load_certificates(chain, what="x")[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"spiffe://{AUTHORITY.domain}/node/{NODE}"
    ]
    assert list(leaf.subject) == [] and leaf.public_key() == key.public_key()
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basic.ca
    with ablation("taking names from the dialled identity") as attack:
        asked = x509.load_pem_x509_csr(request).extensions
        wanted = asked.get_extension_for_class(x509.SubjectAlternativeName).value
        attack.without("pki.profiles.names_of", lambda *_: wanted)
        forged = load_certificates(signing().certify(Identity("node", NODE), request), what="x")[0]
        found = forged.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        attack.succeeded("gateway/g1" in str(found))


@pytest.mark.misuse
def test_a_request_without_the_proof_of_possession_is_refused(ablation: Ablation) -> None:
    request = x509.load_pem_x509_csr(wishful(ec.generate_private_key(ec.SECP256R1())))
    raw = bytearray(request.public_bytes(serialization.Encoding.DER))
    raw[-3] ^= 1
    broken = x509.load_der_x509_csr(bytes(raw)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Refused):
        signing().certify(Identity("node", NODE), broken)
    with ablation("the proof of possession") as attack:
        attack.without("pki.ca.parse_request", lambda pem: x509.load_pem_x509_csr(pem).public_key())
        attack.succeeded(signing().certify(Identity("node", NODE), broken))


def test_a_gateway_without_the_issuer_says_which_one_it_lacks() -> None:
    bare = Certifier({"mirror": issuer("mirror")}, now)
    assert bare.holds(Identity("letterbox", "l1")) and not bare.holds(Identity("node", NODE))
    with pytest.raises(Denied) as told:
        bare.certify(Identity("node", NODE), b"")
    assert told.value.reason == "no-issuer" and "node" in told.value.expected


@given(st.binary(max_size=200))
def test_a_request_of_any_bytes_is_refused(raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        signing().certify(Identity("node", NODE), raw)


# --- on disk -----------------------------------------------------------------------------------


def test_a_pair_is_one_private_file(tmp_path: Path, listener: Listener) -> None:
    path = tmp_path / "tls" / "renewed.pem"
    assert read_pair(path) is None and read_chain(path) is None
    write_pair(path, listener.pair)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_pair(path) == listener.pair
    assert read_chain(path) == listener.pair.chain_pem
    other = Listener().pair
    write_pair(path, other)
    assert read_pair(path) == other
    assert [name.name for name in path.parent.iterdir()] == [path.name]


@pytest.mark.misuse
def test_a_pair_that_others_can_read_or_that_is_half_is_not_used(
    tmp_path: Path, listener: Listener, ablation: Ablation
) -> None:
    path = tmp_path / "renewed.pem"
    write_pair(path, listener.pair)
    path.chmod(0o640)
    with pytest.raises(Denied):
        read_pair(path)
    with ablation("the mode of the file") as attack:
        attack.without("embrasure.fs.check_private")
        attack.succeeded(read_pair(path) == listener.pair)
    path.write_bytes(listener.pair.key_pem)
    path.chmod(0o600)
    with pytest.raises(Refused):
        read_pair(path)
