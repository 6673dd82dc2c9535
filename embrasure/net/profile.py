"""Check that a leaf certificate is exactly what its role's profile says; TLS checks far less.

gRPC takes a leaf without EKU, with CA:TRUE, or with a common name in place of a URI (measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID

from embrasure.errors import Refused
from embrasure.net.certificates import UNREADABLE, UNTRUE
from embrasure.net.identity import PROFILES, Identity, Profile, Role, dns_name, parse_uri


def check_leaf(
    cert: x509.Certificate,
    *,
    role: Role,
    issuers: Sequence[x509.Certificate],
    domain: str,
    at: datetime,
) -> Identity:
    """Return whose leaf `cert` is, when it is a whole and honest leaf of `role`.

    issuers: the role's one or two intermediates, each trusted as it is (no path to a root).
    Raises Refused (`certificate`, `identity`). Steps: 1 a trusted issuer, 2 key and signature, 3
    dates and life, 4 names, 5 chain, usages, constraints. Denials are the caller's.
    """
    profile = PROFILES[role]
    # 1. An empty trust set trusts nobody.
    _require(bool(issuers), role, "an issuer to trust", "none")
    # 2.
    check_key(cert, role)
    # 3. The issuer's word is not enough: a leaf that lives too long escapes every rotation.
    check_life(cert, role=role, at=at)
    # 4.
    identity = check_names(cert, role=role, domain=domain)
    # 5.
    _check_chain(cert, profile=profile, identity=identity, issuers=issuers, domain=domain, at=at)
    return identity


def check_key(cert: x509.Certificate, role: Role) -> None:
    """Return only when the leaf's key is P-256 and it is signed by ECDSA with SHA-256."""
    try:
        key = cert.public_key()
    except UNREADABLE:
        raise _refused(role, "a P-256 key", "a key that does not parse") from None
    _require(
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1),
        role,
        "a P-256 key",
        type(key).__name__,
    )
    _require(
        cert.signature_algorithm_oid == SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        role,
        "a signature by ECDSA with SHA-256",
        cert.signature_algorithm_oid.dotted_string,
    )
    # A bit string may leave bits out of its last byte: the same signature, in another certificate.
    left_out = cert.public_bytes(Encoding.DER)[-len(cert.signature) - 1]
    _require(not left_out, role, "a signature of whole bytes", f"{left_out} bits left out")


def check_life(cert: x509.Certificate, *, role: Role, at: datetime) -> None:
    """Return only when `at` lies inside the leaf's life, and that life is as short as it must."""
    starts, ends = cert.not_valid_before_utc, cert.not_valid_after_utc
    _require(starts <= at < ends, role, "a certificate that is valid now", f"{starts} to {ends}")
    longest = timedelta(seconds=PROFILES[role].longest_seconds)
    _require(ends - starts <= longest, role, f"a life of at most {longest}", ends - starts)


def check_names(cert: x509.Certificate, *, role: Role, domain: str) -> Identity:
    """Return the identity in the leaf's names: one URI, the role's one DNS name or none, no other.

    The subject is empty, so that nothing can fall back to a common name.
    """
    try:
        subject = list(cert.subject)
        extension = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except UNREADABLE:
        raise _refused(role, "one subject alternative name", "none that can be read") from None
    _require(not subject, role, "an empty subject", "a subject")
    names = extension.value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = names.get_values_for_type(x509.DNSName)
    _require(extension.critical, role, "critical names", "names that may be ignored")
    _require(len(uris) == 1, role, "one URI", f"{len(uris)}")
    _require(len(list(names)) == len(uris) + len(hosts), role, "URI and DNS names only", "others")
    identity = parse_uri(uris[0], domain=domain)
    _require(identity.role == role, role, f"a name of the role {role}", str(identity))
    host = dns_name(role, identity.name, domain)
    _require(hosts == ([host] if host else []), role, host or "no DNS name", ", ".join(hosts))
    return identity


def _check_chain(
    cert: x509.Certificate,
    *,
    profile: Profile,
    identity: Identity,
    issuers: Sequence[x509.Certificate],
    domain: str,
    at: datetime,
) -> None:
    """Return only when one of `issuers` signed the leaf for exactly this use."""
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(list(issuers)))
        .time(at)
        .max_chain_depth(1)
        .extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=_leaf(usage_of(profile)),
        )
    )
    try:
        if profile.client:
            builder.build_client_verifier().verify(cert, [])
        else:
            host = x509.DNSName(dns_name(identity.role, identity.name, domain))
            builder.build_server_verifier(host).verify(cert, [])
    except UNTRUE as problem:
        raise _refused(
            identity.role, "a leaf of its issuer, as its profile says", problem
        ) from None


def usage_of(profile: Profile) -> x509.ObjectIdentifier:
    """Return the one extended key usage of a leaf of this profile."""
    return ExtendedKeyUsageOID.CLIENT_AUTH if profile.client else ExtendedKeyUsageOID.SERVER_AUTH


def _leaf(usage: x509.ObjectIdentifier) -> verification.ExtensionPolicy:
    """Return the rules for the extensions of a leaf with the one usage `usage`."""

    def one_usage(
        policy: verification.Policy, cert: x509.Certificate, found: x509.ExtendedKeyUsage | None
    ) -> None:
        if found is None or list(found) != [usage]:
            raise ValueError("another extended key usage")

    def signs_only(
        policy: verification.Policy, cert: x509.Certificate, found: x509.KeyUsage | None
    ) -> None:
        if found is None or not found.digital_signature or found.key_cert_sign or found.crl_sign:
            raise ValueError("another key usage")

    def no_issuer(
        policy: verification.Policy, cert: x509.Certificate, found: x509.BasicConstraints | None
    ) -> None:
        if found is None or found.ca:
            raise ValueError("a leaf that may issue")

    critical, either = verification.Criticality.CRITICAL, verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.SubjectAlternativeName, critical, None)
        .require_present(x509.ExtendedKeyUsage, either, one_usage)
        .require_present(x509.BasicConstraints, critical, no_issuer)
        .require_present(x509.KeyUsage, critical, signs_only)
    )


def _refused(role: str, expected: str, got: object) -> Refused:
    return Refused(
        f"certificate of a {role}",
        expected=expected,
        got=got,
        untouched="the peer was given nothing",
        reason="certificate",
    )


def _require(holds: bool, role: str, expected: str, got: object) -> None:
    if not holds:
        raise _refused(role, expected, got)
