"""The certificate authorities by role: which usage and which DNS zones each issuer is bound to.

The profiles of the leaves themselves are `embrasure.net.identity.PROFILES`: issuer and verifier
read the same table.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from embrasure.errors import Misuse
from embrasure.net.identity import (
    PROFILES,
    Identity,
    IssuerName,
    check_name,
    dns_name,
    uri,
)
from embrasure.net.profile import usage_of as usage_of

ISSUERS: tuple[IssuerName, ...] = ("gateway", "admin", "node", "mirror", "operator")


def parse_identity(text: str) -> Identity:
    """Return the identity that `ROLE/NAME` means; raises Misuse."""
    role, _, name = text.partition("/")
    for known in PROFILES:
        if known == role:
            return Identity(known, check_name(name))
    known_roles = ", ".join(PROFILES)
    raise Misuse("identity", expected=f"ROLE/NAME with a role of {known_roles}", got=text)


def check_issuer(text: str) -> IssuerName:
    """Return the name of the issuer that `text` is; raises Misuse."""
    for known in ISSUERS:
        if known == text:
            return known
    raise Misuse("issuer", expected=f"one of {', '.join(ISSUERS)}", got=text)


def issuer_usage(name: IssuerName) -> ObjectIdentifier:
    """Return the one extended key usage of every leaf below an issuer."""
    (usage,) = {usage_of(profile) for profile in PROFILES.values() if profile.issuer == name}
    return usage


def issuer_zones(name: IssuerName, domain: str) -> list[str]:
    """Return the DNS zones that an issuer may name; none for issuers of clients."""
    templates = [profile.dns for profile in PROFILES.values() if profile.issuer == name]
    zones = [dns.removeprefix("{name}.").format(domain=domain) for dns in templates if dns]
    return sorted(set(zones))


def names_of(identity: Identity, domain: str) -> x509.SubjectAlternativeName:
    """Return the SAN of an identity: exactly its URI, and its DNS name if it is a server."""
    host = dns_name(identity.role, identity.name, domain)
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(uri(identity.role, identity.name, domain))
    ]
    return x509.SubjectAlternativeName([*names, x509.DNSName(host)] if host else names)
