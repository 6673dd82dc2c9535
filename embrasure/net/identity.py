"""Who may talk: one SPIFFE URI per TLS identity, its strict grammar, and each role's profile.

A TLS identity says who may talk, never what is true: no such name counts as an approval.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from embrasure import limits
from embrasure.errors import Misuse, Refused

Role = Literal["gateway", "gateway-admin", "node", "mirror", "letterbox", "operator"]
IssuerName = Literal["gateway", "admin", "node", "mirror", "operator"]

_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# gRPC does not normalise: `..`, `%2f`, `?`, upper case and a second path all reach us as they are.
_URI = re.compile(
    r"spiffe://(?P<domain>[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?)"
    r"/(?P<role>[a-z-]{1,32})/(?P<name>[a-z0-9][a-z0-9-]{0,62})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a leaf of one role must be.

    issuer: the one issuer that may sign it; client: it dials (clientAuth), else it listens;
    dns: the one DNS name, a template, or empty; life_seconds: as issued; longest_seconds: as
    accepted by a verifier.
    """

    issuer: IssuerName
    client: bool
    dns: str
    life_seconds: int
    longest_seconds: int


def _service(issuer: IssuerName, dns: str) -> Profile:
    """Return the profile of a server that renews by itself long before its week ends."""
    life = limits.SERVICE_LEAF_SECONDS
    return Profile(
        issuer=issuer,
        client=False,
        dns=dns,
        life_seconds=life,
        longest_seconds=life + limits.LEAF_SLACK_SECONDS,
    )


PROFILES: Mapping[Role, Profile] = MappingProxyType(
    {
        "gateway": Profile(
            issuer="gateway",
            client=True,
            dns="",
            life_seconds=limits.GATEWAY_LEAF_SECONDS,
            longest_seconds=limits.GATEWAY_LEAF_SECONDS + limits.LEAF_SLACK_SECONDS,
        ),
        "gateway-admin": _service("admin", "admin.{domain}.internal"),
        "node": _service("node", "{name}.node.{domain}.internal"),
        "mirror": _service("mirror", "{name}.mirror.{domain}.internal"),
        "letterbox": _service("mirror", "{name}.letterbox.{domain}.internal"),
        "operator": Profile(
            issuer="operator",
            client=True,
            dns="",
            life_seconds=limits.OPERATOR_LEAF_SECONDS,
            longest_seconds=limits.OPERATOR_LEAF_LONGEST_SECONDS,
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """One TLS identity inside one trust domain."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"


def check_domain(domain: str) -> str:
    """Return `domain` when it can be a trust domain; raises Misuse."""
    if not _DOMAIN.fullmatch(domain) or ".." in domain:
        raise Misuse("trust domain", expected="a lower-case DNS name", got=domain)
    return domain


def check_name(name: str) -> str:
    """Return `name` when it can be the name of an identity; raises Misuse."""
    if not _NAME.fullmatch(name):
        raise Misuse(
            "identity name",
            expected="1-63 lower-case letters, digits and hyphens",
            got=name,
        )
    return name


def uri(role: Role, name: str, domain: str) -> str:
    """Return the SPIFFE URI that stands in the certificate of `role`/`name`."""
    return f"spiffe://{check_domain(domain)}/{role}/{check_name(name)}"


def dns_name(role: Role, name: str, domain: str) -> str:
    """Return the DNS name in a server's certificate, empty for a client's.

    It is never looked up: callers dial an address and demand this name.
    """
    return PROFILES[role].dns.format(name=check_name(name), domain=check_domain(domain))


def parse_uri(text: str, *, domain: str) -> Identity:
    """Return the identity that `text` names inside `domain`; raises Refused (`identity`)."""
    found = _URI.fullmatch(text) if text.isascii() else None
    if found is None or found["domain"] != domain or found["role"] not in PROFILES:
        raise Refused(
            "TLS identity",
            expected=f"spiffe://{domain}/ROLE/NAME",
            got=text,
            untouched="the peer was given nothing",
            reason="identity",
        )
    return Identity(_role(found["role"]), found["name"])


def _role(text: str) -> Role:
    return next(role for role in PROFILES if role == text)
