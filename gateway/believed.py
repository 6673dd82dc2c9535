"""Whom the gateway believes when operators call, and what is denied in any of its environments."""

from __future__ import annotations

from embrasure import limits
from embrasure.errors import Refused
from embrasure.net.denials import NOTHING, TlsDenials, tls_denials
from embrasure.net.trustbundle import Trust, trust_of
from embrasure.trust import layout
from embrasure.trust.denied import denied_sets, merge
from embrasure.trust.directory import parse_tls_bundle
from embrasure.trust.floors import Union
from embrasure.trust.policy import parse_policy, parse_revocations
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
    """Return what policy and revocations of any environment deny on TLS; raises Refused."""
    found = NOTHING
    for env in environments(repository):
        found = found.joined(_denied_in(repository, env))
    return found


def environments(repository: Repository) -> list[str]:
    """Return the environments that the verified repository has, sorted."""
    roles = repository.view().roles
    return sorted(role.removeprefix("fleet-") for role in roles if role.startswith("fleet-"))


def _denied_in(repository: Repository, env: str) -> TlsDenials:
    view, union, policy = repository.view(), Union(), None
    fleet, path = layout.fleet_role(env), layout.policy_path(env)
    if view.target(fleet, path) is not None:
        policy = parse_policy(repository.document(fleet, path, limit=limits.POLICY_BYTES))
    revoked, path = layout.REVOCATIONS, layout.revocations_path(env)
    if view.target(revoked, path) is not None:
        raw = repository.document(revoked, path, limit=limits.REVOCATIONS_BYTES)
        union = merge(
            union,
            parse_revocations(raw),
            version=view.roles[revoked].version,
            reset_through=policy.denials_reset_through if policy else 0,
        )
    return tls_denials(denied_sets(policy, union))
