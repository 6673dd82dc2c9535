"""What is denied: the policy's lasting list and the union of every revocation seen since the reset.

Drill: a stolen on-call key denies everything it can.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from embrasure import limits
from embrasure.trust.floors import Union
from embrasure.trust.policy import Denied, Policy, Revocations

LISTS = ("plans", "manifests", "keys", "nodes", "gateway_certs")


@dataclass(frozen=True, slots=True)
class DeniedSets:
    """Digests of plans and manifests, ids of keys and nodes that must not count or run; SHA-256 of
    the public keys (SPKI) of gateway certificates and of issuers that nobody may trust.
    """

    plans: frozenset[str]
    manifests: frozenset[str]
    keys: frozenset[str]
    nodes: frozenset[str]
    gateway_certs: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()

    def joined(self, other: DeniedSets) -> DeniedSets:
        """Return what either denies."""
        return DeniedSets(
            plans=self.plans | other.plans,
            manifests=self.manifests | other.manifests,
            keys=self.keys | other.keys,
            nodes=self.nodes | other.nodes,
            gateway_certs=self.gateway_certs | other.gateway_certs,
            issuers=self.issuers | other.issuers,
        )


def after_reset(union: Union, *, reset_through: int, holders: Set[str] | None) -> Union:
    """Return what is still denied after the two resets that only offline roles can make.

    reset_through: of the policy; what no later version named is dropped
    holders: ids of the keys that may sign revocations now, None when that is not known
    A key that `targets` took away takes the whole union with it: nobody knows what it signed.
    """
    if holders is not None and not set(union.holders) <= holders:
        return Union()
    if all(version > reset_through for name in LISTS for version in getattr(union, name).values()):
        return union
    kept = {
        name: {entry: v for entry, v in getattr(union, name).items() if v > reset_through}
        for name in LISTS
    }
    return Union(**kept, through=union.through, holders=union.holders)


def merge(
    union: Union,
    revocations: Revocations,
    *,
    version: int,
    reset_through: int = 0,
    holders: Set[str] | None = None,
) -> Union:
    """Return `union` after the resets, with the entries of one version of the revocations added.

    An entry left out of a later version stays: one stolen on-call key cannot lift a denial. A
    version up to `reset_through` is not taken again. A union that is full takes no more: every new
    install is held already, and nothing is ever pushed out.
    """
    kept = after_reset(union, reset_through=reset_through, holders=holders)
    signers = kept.holders if holders is None else tuple(sorted(holders))
    if version <= reset_through or is_full(kept):
        return Union(**_lists(kept), through=kept.through, holders=signers)
    merged = {name: dict(entries) for name, entries in _lists(kept).items()}
    for name in LISTS:
        for entry in getattr(revocations, name):
            merged[name][entry] = max(version, merged[name].get(entry, 0))
    return Union(**merged, through=max(kept.through, version), holders=signers)


def _lists(union: Union) -> dict[str, dict[str, int]]:
    return {name: getattr(union, name) for name in LISTS}


def is_full(union: Union) -> bool:
    """Return whether `union` holds more than it may: then every new install is held."""
    return union.size() > limits.DENIED_UNION


NOTHING = Denied(plans=(), manifests=(), keys=(), nodes=(), gateway_certs=(), issuers=())


def denied_sets(policy: Policy | None, union: Union) -> DeniedSets:
    """Return what policy and revocations deny together; without a policy, the union alone."""
    return sets_of(NOTHING if policy is None else policy.denied, union)


def sets_of(lasting: Denied, union: Union) -> DeniedSets:
    """Return what a policy's list and a union deny together."""
    return DeniedSets(
        plans=frozenset(lasting.plans) | frozenset(union.plans),
        manifests=frozenset(lasting.manifests) | frozenset(union.manifests),
        keys=frozenset(lasting.keys) | frozenset(union.keys),
        nodes=frozenset(lasting.nodes) | frozenset(union.nodes),
        gateway_certs=frozenset(lasting.gateway_certs) | frozenset(union.gateway_certs),
        issuers=frozenset(lasting.issuers),
    )
