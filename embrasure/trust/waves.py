"""Who is in which wave, and whose receipts count: worked out by each node alone.

No online role says which node gets what, so a stolen gateway key cannot re-target a release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from embrasure import limits
from embrasure.trust.plan import Plan

BUCKETS = 10_000


def _hash(tag: str, plan: Plan, node: str) -> bytes:
    text = "\0".join((tag, plan.root, plan.env, plan.app, str(plan.seq), node))
    return hashlib.sha256(text.encode("ascii")).digest()


def bucket(plan: Plan, node: str) -> int:
    """Return the node's number below 10,000 in this plan.

    It depends on `seq`, which is fixed before the plan's content: nobody can try plans for a
    good bucket.
    """
    return int.from_bytes(_hash("embrasure-wave-v1", plan, node)[:8], "big") % BUCKETS


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` hold every pair of `wanted`."""
    return all(labels.get(name) == value for name, value in wanted.items())


def wave_of(plan: Plan, node: str, labels: Mapping[str, str]) -> int | None:
    """Return the number of the node's wave; None when it is not in the plan's group.

    0 (canary) by id; else the lowest wave whose labels match and whose percent is above the bucket.
    """
    if not matches(plan.group, labels):
        return None
    if any(named.id == node for named in plan.waves[0].nodes):
        return 0
    mine = bucket(plan, node)
    for number, wave in enumerate(plan.waves[1:], start=1):
        if matches(wave.match, labels) and 100 * wave.percent > mine:
            return number
    return None


def witnesses(plan: Plan, members: Sequence[str]) -> tuple[str, ...]:
    """Return the ids whose receipts a later wave needs: the members with the lowest hashes."""
    ranked = sorted(members, key=lambda node: _hash("embrasure-witness-v1", plan, node))
    return tuple(sorted(ranked[: limits.WITNESSES]))


def need_of(named: int) -> int:
    """Return how many of `named` witnesses must have soaked: two thirds, rounded up."""
    return -(-2 * named // 3)
