"""Whom the gateway believes when operators call, and what is denied in any of its environments."""

from __future__ import annotations

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.denials import TlsDenials, tls_denials
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.directory import parse_tls_bundle
from gateway.repository import Repository


def operator_trust(repository: Repository, domain: str) -> Trust:
    """Return who may certify operators: what the verified `tls.json` of every environment says,
    less what the policy of any of them denies.

    Raises Refused (`no-issuer`, `domain`).
    """
    issuers = []
    for env in environments(repository):
        path = layout.tls_path(env)
        if repository.view().target(layout.fleet_role(env), path) is None:
            continue
        raw = repository.document(layout.fleet_role(env), path, limit=limits.TLS_BUNDLE_BYTES)
        trust = trust_of(parse_tls_bundle(raw))
        if trust.domain != domain:
            raise Refused(path, expected=f"domain {domain}", got=trust.domain, reason="domain")
        issuers += [c for c in trust.issuers_of("operator") if c not in issuers]
    if not issuers:
        raise Refused(
            "operators",
            expected="an environment whose tls.json names their issuer",
            got="none",
            hint="embrasure trust env add, then gateway init again",
            reason="no-issuer",
        )
    return Trust(domain, {"operator": tuple(issuers)}, None, denied_everywhere(repository))


def denied_everywhere(repository: Repository) -> TlsDenials:
    """Return what policy and revocations of any environment deny on TLS."""
    return tls_denials(repository.denials.everywhere())


def environments(repository: Repository) -> list[str]:
    """Return the environments that the verified repository has, sorted."""
    roles = repository.view().roles
    return sorted(role.removeprefix("fleet-") for role in roles if role.startswith("fleet-"))
