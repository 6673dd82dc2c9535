"""Every way out of the code that decides who may talk, where no listener leads to it easily."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from embrasure.clock import now
from embrasure.errors import Refused
from embrasure.net.authorize import HYBRID, Peers
from embrasure.net.certificates import load_certificates
from embrasure.net.identity import Identity
from embrasure.net.profile import check_leaf
from embrasure.net.trustbundle import TrustHolder, check_issuer, trust_of
from tests.ablation import Ablation
from tests.simulate.authority import Authority, Issuer, Leaf, der_text, key_usage
from tests.simulate.box import bundle_of
from tests.simulate.listener import METHODS, listening, trust_from
from tests.simulate.repository import SimRepository


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def auth(leaf: Leaf, name: str = "g1", **other: list[bytes]) -> dict[str, list[bytes]]:
    """What gRPC says of a connection by `leaf`."""
    return {
        "transport_security_type": [b"ssl"],
        "ssl_tls_version": [b"TLSv1.3"],
        "ssl_negotiated_key_exchange_group": [HYBRID.encode()],
        "ssl_session_reused": [b"false"],
        "peer_uri": [f"spiffe://fleet.example/gateway/{name}".encode()],
        "x509_pem_cert": [leaf.pem],
        **other,
    }


def peers(authority: Authority, clock: Callable[[], datetime] = now) -> Peers:
    return Peers(TrustHolder(trust_from(authority)), clock=clock)


@pytest.mark.misuse
def test_the_name_that_tls_tells_must_be_the_one_in_the_certificate(
    authority: Authority, ablation: Ablation
) -> None:
    leaf, asked = authority.leaf("gateway", "g1"), peers(authority)
    assert asked.identify(auth(leaf)) == Identity("gateway", "g1")
    with pytest.raises(Refused, match="the name in the certificate"):
        asked.identify(auth(leaf, "g2"))
    with ablation("the comparison of both names") as attack:
        attack.without("embrasure.net.authorize.Peers._check_profile", lambda *_, **__: "")
        attack.succeeded(asked.identify(auth(leaf, "g2")) == Identity("gateway", "g2"))


@pytest.mark.parametrize(
    "pem", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_certificate_that_does_not_parse_is_refused(authority: Authority, pem: bytes) -> None:
    leaf = authority.leaf("gateway", "g1")
    with pytest.raises(Refused, match="a certificate that parses"):
        peers(authority).identify(auth(leaf, x509_pem_cert=[pem]))
    with pytest.raises(Refused):
        load_certificates(pem, what="issuer")


def test_verdicts_are_remembered_for_a_bounded_number_of_certificates(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embrasure.net.authorize._VERDICTS", 2)
    asked = peers(authority)
    for number in range(5):
        leaf = authority.leaf("gateway", f"g{number}")
        for _ in range(2):
            assert asked.identify(auth(leaf, f"g{number}")).name == f"g{number}"
    assert len(asked._verdicts) <= 2


def test_whatever_goes_wrong_while_a_peer_is_checked_is_a_refusal(authority: Authority) -> None:
    def broken() -> datetime:
        raise ZeroDivisionError("a fault of ours")

    async def work() -> None:
        async with listening(authority, clock=broken) as listener:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listener.call("unary_unary", authority.leaf("gateway", "g1"))
            assert caught.value.details() == "denied" and not listener.handlers.ran

    asyncio.run(work())


@pytest.mark.parametrize("kind", METHODS)
def test_a_peer_that_stays_allowed_is_looked_at_and_left_alone(
    authority: Authority, kind: str
) -> None:
    async def work() -> None:
        async with listening(authority, recheck_s=0.02) as listener:
            listener.handlers.wait = asyncio.Event()
            running = asyncio.create_task(listener.call(kind, authority.leaf("gateway", "g1")))
            await asyncio.sleep(0.3)
            listener.handlers.wait.set()
            await running
            assert listener.handlers.ran[f"{kind} ended"] == 1

    asyncio.run(work())


def leaf_with(authority: Authority, usage: x509.KeyUsage | None) -> x509.Certificate:
    """A leaf of the node n1 whose key usage is this one, or absent."""
    issuer, key = authority.issuers["node"], ec.generate_private_key(ec.SECP256R1())
    honest = authority.leaf("node", "n1", key=key).certificate
    builder = x509.CertificateBuilder(
        issuer_name=honest.issuer,
        subject_name=honest.subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=honest.not_valid_before_utc,
        not_valid_after=honest.not_valid_after_utc,
    )
    for extension in honest.extensions:
        if not isinstance(extension.value, x509.KeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer.key, hashes.SHA256())


@pytest.mark.misuse
@pytest.mark.parametrize("signs", [True, None])
def test_a_leaf_whose_key_may_do_something_else_is_refused(
    authority: Authority, signs: bool | None, ablation: Ablation
) -> None:
    def check(cert: x509.Certificate) -> Identity:
        issuers = [authority.issuers["node"].certificate]
        return check_leaf(cert, role="node", issuers=issuers, domain=authority.domain, at=now())

    assert check(leaf_with(authority, key_usage(signs=False))).name == "n1"
    forged = leaf_with(authority, None if signs is None else key_usage(signs=True))
    with pytest.raises(Refused, match="as its profile says"):
        check(forged)
    with ablation("the rules for usages and extensions") as attack:
        attack.without("embrasure.net.profile._check_chain")
        attack.succeeded(check(forged).name == "n1")


def issuer_by(authority: Authority, key: Any, usages: list[x509.ObjectIdentifier]) -> Any:
    """An issuer certificate of the root over this public key, with these usages."""
    honest = authority.issuers["node"].certificate
    builder = x509.CertificateBuilder(
        issuer_name=honest.issuer,
        subject_name=honest.subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=honest.not_valid_before_utc,
        not_valid_after=honest.not_valid_after_utc,
    )
    for extension in honest.extensions:
        if not isinstance(extension.value, x509.ExtendedKeyUsage):
            builder = builder.add_extension(extension.value, extension.critical)
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(authority.root.key, hashes.SHA256())


@pytest.mark.misuse
def test_an_issuer_of_another_kind_of_key_is_refused(
    authority: Authority, ablation: Ablation
) -> None:
    roots = [authority.root.certificate]
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    usages = [ExtendedKeyUsageOID.SERVER_AUTH]
    check_issuer(authority.issuers["node"].certificate, roots=roots, name="node")
    forged = issuer_by(authority, public, usages)
    with pytest.raises(Refused, match="a P-256 key"):
        check_issuer(forged, roots=roots, name="node")
    with ablation("the kind of the key") as attack:
        # The root did sign it: nothing else stands between.
        forged.verify_directly_issued_by(roots[0])
        attack.succeeded(forged.extensions)


@pytest.mark.misuse
@pytest.mark.parametrize(
    "usages",
    [[], [ExtendedKeyUsageOID.CLIENT_AUTH],
     [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]],
)  # fmt: skip
def test_an_issuer_of_other_usages_is_refused(
    authority: Authority, usages: list[x509.ObjectIdentifier], ablation: Ablation
) -> None:
    roots = [authority.root.certificate]
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    check_issuer(
        issuer_by(authority, public, [ExtendedKeyUsageOID.SERVER_AUTH]), roots=roots, name="node"
    )
    forged = issuer_by(authority, public, usages)
    with pytest.raises(Refused, match=r"usage|can be read"):
        check_issuer(forged, roots=roots, name="node")
    with ablation("the usage of an issuer's leaves") as attack:
        forged.verify_directly_issued_by(roots[0])
        attack.succeeded(forged.extensions)


def test_a_bundle_of_two_roots_takes_issuers_of_either(authority: Authority) -> None:
    other, sim = Authority(), SimRepository()
    bundle = bundle_of(authority, sim)
    text = der_text(other.root.certificate)
    with pytest.raises(Refused, match="a signature of the bundle's CA root"):
        trust_of(msgspec.structs.replace(bundle, ca_root=(text,)))
    theirs = der_text(other.issuers["node"].certificate)
    issuers = {**bundle.issuers, "node": (*bundle.issuers["node"], theirs)}
    found = trust_of(
        msgspec.structs.replace(bundle, ca_root=(*bundle.ca_root, text), issuers=issuers)
    )
    assert len(found.issuers_of("node")) == 2


def test_a_clock_that_jumps_ends_a_certificate_at_once(authority: Authority) -> None:
    leaf, late = authority.leaf("gateway", "g1"), now() + timedelta(hours=24)
    with pytest.raises(Refused, match="valid now"):
        peers(authority, lambda: late).identify(auth(leaf))


def test_an_issuer_that_expired_vouches_for_nobody(authority: Authority) -> None:
    aged = Authority(clock=lambda: now() - timedelta(days=366))
    issuer = aged.issuers["gateway"]
    leaf = authority.leaf("gateway", "g1", issuer=Issuer(issuer.certificate, issuer.key))
    trust = trust_from(authority)
    old = replace(trust, issuers={**trust.issuers, "gateway": (issuer.certificate,)})
    with pytest.raises(Refused, match="as its profile says"):
        Peers(TrustHolder(old)).identify(auth(leaf))
