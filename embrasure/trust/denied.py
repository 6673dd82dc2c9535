"""What is denied: the policy's lasting list and the union of every revocation seen since."""

from __future__ import annotations

from dataclasses import dataclass

from embrasure import limits
from embrasure.trust.floors import Union
from embrasure.trust.policy import Policy, Revocations


@dataclass(frozen=True, slots=True)
class DeniedSets:
    """Digests of plans and manifests, ids of keys and nodes that must not count or run."""

    plans: frozenset[str]
    manifests: frozenset[str]
    keys: frozenset[str]
    nodes: frozenset[str]


def merge(union: Union, revocations: Revocations, *, version: int) -> Union:
    """Return `union` with the entries of one version of the revocations added.

    An entry left out of a later version stays: one stolen on-call key cannot lift a denial.
    """
    return Union(
        plans=tuple(sorted({*union.plans, *revocations.plans})),
        manifests=tuple(sorted({*union.manifests, *revocations.manifests})),
        keys=tuple(sorted({*union.keys, *revocations.keys})),
        nodes=tuple(sorted({*union.nodes, *revocations.nodes})),
        through=max(union.through, version),
    )


def is_full(union: Union) -> bool:
    """Return whether `union` holds more than it may: then every new install is held."""
    return union.size() > limits.DENIED_UNION


def denied_sets(policy: Policy, union: Union) -> DeniedSets:
    """Return what policy and revocations deny together."""
    lasting = policy.denied
    return DeniedSets(
        plans=frozenset(lasting.plans) | frozenset(union.plans),
        manifests=frozenset(lasting.manifests) | frozenset(union.manifests),
        keys=frozenset(lasting.keys) | frozenset(union.keys),
        nodes=frozenset(lasting.nodes) | frozenset(union.nodes),
    )
