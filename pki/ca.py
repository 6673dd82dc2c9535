"""The certificate authorities: one offline root, one issuer a role, and the leaves they sign.

A leaf's names and extensions come from its profile alone; of a request only the public key counts.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Signer

from embrasure import fs, limits
from embrasure.clock import Clock
from embrasure.errors import Refused
from embrasure.net.certificates import UNREADABLE, UNTRUE
from embrasure.net.identity import PROFILES, IssuerName
from pki import profiles
from pki.signers import SignerKey

RootKey = ec.EllipticCurvePrivateKey | MLDSA65PrivateKey
_CERTIFICATE_BYTES = 16 * limits.KIB
_NO_ADDRESS = [
    x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
    x509.IPAddress(ipaddress.ip_network("::/0")),
]


@dataclass(frozen=True, slots=True)
class Issuer:
    """One intermediate: its certificate, its key behind a signer, and the fleet's domain."""

    name: IssuerName
    domain: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def load_issuer(name: IssuerName, *, domain: str, certificate: Path, signer: Signer) -> Issuer:
    """Return the issuer whose certificate is for `signer`'s key; raises Refused."""
    found = parse_certificate(fs.read_file(certificate, limit=_CERTIFICATE_BYTES))
    key = SignerKey(signer)
    if raw_public(found.public_key()) != raw_public(key.public_key()):
        raise Refused(str(certificate), expected=f"the certificate of {name}-ca's key", got="else")
    return Issuer(name, domain, found, key)


def parse_certificate(raw: bytes) -> x509.Certificate:
    """Return the one certificate in `raw` (PEM or DER, nothing else with it); raises Refused."""
    try:
        if not raw.startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_der_x509_certificate(raw)
        found = x509.load_pem_x509_certificates(raw)
    except UNREADABLE:
        found = []
    if len(found) != 1 or found[0].public_bytes(serialization.Encoding.PEM) != raw:
        raise Refused("certificate", expected="exactly one", got="something else")
    return found[0]


def parse_request(raw: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a certificate request that proves possession; raises Refused.

    Whatever names and extensions the request asks for are not even looked at.
    """
    try:
        request = x509.load_pem_x509_csr(raw)
        proved, key = request.is_signature_valid, request.public_key()
    except UNTRUE:
        raise Refused("request", expected="a PEM certificate request", got="else") from None
    if not proved:
        raise Refused("request", expected="a proof of possession", got="a false one")
    return check_leaf_key(key)


def check_leaf_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return `key` when a leaf may have it: P-256; raises Refused.

    Ed25519 leaves fail in gRPC in both directions; better at issuance than in the night.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refused("leaf key", expected="ECDSA P-256", got=type(key).__name__)
    return key


def root_key(private: object) -> RootKey:
    """Return `private` when a CA root may have it: P-256, P-384, ML-DSA-65; raises Refused.

    No Ed25519: certificate verifiers refuse such authorities.
    """
    if isinstance(private, MLDSA65PrivateKey):
        return private
    curves = (ec.SECP256R1, ec.SECP384R1)
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, curves):
        return private
    raise Refused("CA root key", expected="P-256, P-384 or ML-DSA-65", got=type(private).__name__)


def make_root(key: RootKey, *, domain: str, at: datetime, number: int = 1) -> x509.Certificate:
    """Return the self-signed root: 10 years, one level of issuers below it.

    number: which root of this fleet it is; two roots of one name could be taken for each other
    """
    name = _ca_name("root" if number == 1 else f"root {number}", domain)
    builder = _ca_builder(name, name, key.public_key(), at, limits.CA_ROOT_SECONDS, depth=1)
    return builder.sign(key, _hash_for(key))


def make_issuer(
    name: IssuerName,
    public: ec.EllipticCurvePublicKey,
    *,
    root: x509.Certificate,
    root_key: RootKey,
    domain: str,
    at: datetime,
) -> x509.Certificate:
    """Return one role's issuer: leaves of that role's one usage and DNS zones, no address.

    It never outlives its root. Raises Refused when the root has ended.
    """
    check_leaf_key(public)
    life_s = min(limits.ISSUER_SECONDS, int((root.not_valid_after_utc - at).total_seconds()))
    if life_s <= 0:
        raise Refused("CA root", expected="a living root", got=f"ended {root.not_valid_after_utc}")
    permitted = [x509.DNSName(zone) for zone in profiles.issuer_zones(name, domain)]
    builder = _ca_builder(_ca_name(name, domain), root.subject, public, at, life_s, depth=0)
    builder = _identify_issuer(builder, root).add_extension(
        x509.ExtendedKeyUsage([profiles.issuer_usage(name)]), critical=False
    )
    # No URI constraint: certificate verifiers fail on one.
    builder = builder.add_extension(x509.NameConstraints(permitted or None, _NO_ADDRESS), True)
    return builder.sign(root_key, _hash_for(root_key))


def issue_leaf(identity: str, public: object, issuer: Issuer, clock: Clock) -> x509.Certificate:
    """Return the leaf of `ROLE/NAME` over `public`; raises Misuse, Refused.

    Its life is the profile's, and never longer than its issuer's.
    """
    who = profiles.parse_identity(identity)
    profile, key, at = PROFILES[who.role], check_leaf_key(public), clock()
    if profile.issuer != issuer.name:
        raise Refused(
            identity, expected=f"{profile.issuer}-ca", got=f"{issuer.name}-ca", reason="issuer"
        )
    until = min(
        at + timedelta(seconds=profile.life_seconds), issuer.certificate.not_valid_after_utc
    )
    if until <= at:
        raise Refused(f"{issuer.name}-ca", expected="a living issuer", got=f"ended {until}")
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(seconds=limits.BACKDATE_SECONDS))
        .not_valid_after(until)
        .add_extension(profiles.names_of(who, issuer.domain), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([profiles.usage_of(profile)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    return _identify_issuer(builder, issuer.certificate).sign(issuer.key, hashes.SHA256())


def _hash_for(key: RootKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """Return the hash that a root of this kind signs with; ML-DSA has its own inside."""
    if isinstance(key, MLDSA65PrivateKey):
        return None
    return hashes.SHA384() if key.key_size == 384 else hashes.SHA256()


def raw_public(key: object) -> bytes:
    """Return the DER of a public key, for comparing."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.DER, form)


def pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def _ca_name(role: str, domain: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain),
            x509.NameAttribute(NameOID.COMMON_NAME, f"embrasure {role}-ca"),
        ]
    )


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | MLDSA65PublicKey,
    at: datetime,
    life_s: int,
    *,
    depth: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(seconds=limits.BACKDATE_SECONDS))
        .not_valid_after(at + timedelta(seconds=life_s))
        .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _identify_issuer(
    builder: x509.CertificateBuilder, issuer: x509.Certificate
) -> x509.CertificateBuilder:
    found = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)
    return builder.add_extension(identifier, critical=False)


def _usage(*, signs: bool) -> x509.KeyUsage:
    """A leaf signs handshakes; an authority signs certificates and lists of them."""
    return x509.KeyUsage(
        digital_signature=signs,
        key_cert_sign=not signs,
        crl_sign=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
