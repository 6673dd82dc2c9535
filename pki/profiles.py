"""The certificate profiles: who issues which identity, with which one usage, for how long.

Every leaf is P-256 with an empty subject and a critical SAN; verifiers check the whole profile
again (`embrasure.net.profile`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from embrasure import limits
from embrasure.errors import Misuse
from embrasure.trust.layout import IDENTITY_NAME

IssuerName = Literal["gateway", "admin", "node", "mirror", "operator"]
ISSUERS: tuple[IssuerName, ...] = ("gateway", "admin", "node", "mirror", "operator")

_CLIENT, _SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Profile:
    """What a leaf of one role is.

    zone: the DNS name is `<name>.<zone>.<domain>.internal`; `admin` has no name in front; empty
    when the leaf is a client's and has no DNS name. life_s: seconds
    """

    role: str
    issuer: IssuerName
    usage: ObjectIdentifier
    zone: str
    life_s: int


PROFILES = {
    found.role: found
    for found in (
        Profile("gateway", "gateway", _CLIENT, "", limits.GATEWAY_LEAF_SECONDS),
        Profile("gateway-admin", "admin", _SERVER, "admin", limits.SERVICE_LEAF_SECONDS),
        Profile("node", "node", _SERVER, "node", limits.SERVICE_LEAF_SECONDS),
        Profile("mirror", "mirror", _SERVER, "mirror", limits.SERVICE_LEAF_SECONDS),
        Profile("letterbox", "mirror", _SERVER, "letterbox", limits.SERVICE_LEAF_SECONDS),
        Profile("operator", "operator", _CLIENT, "", limits.OPERATOR_LEAF_SECONDS),
    )
}
ISSUER_USAGE = {found.issuer: found.usage for found in PROFILES.values()}
ISSUER_ZONES: dict[IssuerName, tuple[str, ...]] = {
    issuer: tuple(p.zone for p in PROFILES.values() if p.issuer == issuer and p.zone)
    for issuer in ISSUERS
}


def parse_identity(text: str) -> tuple[Profile, str]:
    """Return profile and name of `ROLE/NAME`; raises Misuse."""
    role, _, name = text.partition("/")
    if role not in PROFILES or not IDENTITY_NAME.fullmatch(name):
        raise Misuse(
            "identity",
            expected=f"ROLE/NAME with a role of {', '.join(sorted(PROFILES))}",
            got=text,
        )
    return PROFILES[role], name


def uri_of(profile: Profile, name: str, domain: str) -> str:
    """Return the SPIFFE id of an identity."""
    return f"spiffe://{domain}/{profile.role}/{name}"


def dns_of(profile: Profile, name: str, domain: str) -> str | None:
    """Return the DNS name that a server's leaf carries; None for a client's."""
    if not profile.zone:
        return None
    host = f"{profile.zone}.{domain}.internal"
    return host if profile.zone == "admin" else f"{name}.{host}"


def names_of(profile: Profile, name: str, domain: str) -> x509.SubjectAlternativeName:
    """Return the SAN of an identity: exactly its URI, and its DNS name if it is a server."""
    host = dns_of(profile, name, domain)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri_of(profile, name, domain))]
    return x509.SubjectAlternativeName([*names, x509.DNSName(host)] if host else names)
