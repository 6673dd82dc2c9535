"""What an approval needs beside signatures that verify: the policy, persons, quotas of groups."""

from __future__ import annotations

from collections.abc import Iterable

from embrasure.errors import Denied
from embrasure.trust.within import is_within_policy
from gateway.grounds import Grounds
from gateway.releases import Release


def check_policy(release: Release, grounds: Grounds) -> None:
    """Return only when the plan respects the policy, as nodes will ask; raises Denied."""
    plan, policy, denied = release.plan, grounds.policy, grounds.denied

    def require(holds: bool, expected: str, got: object) -> None:
        if not holds:
            raise Denied(f"plan for {grounds.role}", expected=expected, got=got, reason="policy")

    require(is_within_policy(plan, policy), "group, canary, soak, percent, times within policy",
            f"the plan {release.plan_digest[:16]}")  # fmt: skip
    require(release.plan_digest not in denied.plans, "a plan that is not denied", "a denied one")
    require(plan.manifest.sha256 not in denied.manifests, "a manifest that is not denied",
            plan.manifest.sha256)  # fmt: skip
    low, high = policy.min_seq.get(plan.app, 0), policy.seq_ceiling.get(plan.app)
    require(low <= plan.seq and (high is None or plan.seq <= high), f"seq {low} to {high}",
            plan.seq)  # fmt: skip
    others = [person for person in grounds.people() if person != plan.proposer]
    require(len(others) >= grounds.threshold,
            f"{grounds.threshold} persons beside the proposer", len(others))  # fmt: skip
    lacks = grounds.lacking(others)
    require(not lacks, f"{grounds.needs()} beside the proposer", f"without them: {lacks}")


def persons_of(keys: Iterable[str], grounds: Grounds) -> set[str]:
    """Return whose keys these are; a key of nobody counts for nobody."""
    found = (grounds.policy.person_of(key) for key in keys)
    return {person for person in found if person is not None}


def is_enough(keys: Iterable[str], grounds: Grounds) -> bool:
    """Return whether the persons of these keys reach the threshold and every quota."""
    return not grounds.lacking(persons_of(keys, grounds))


def check_enough(keys: Iterable[str], release: Release, grounds: Grounds) -> None:
    """Return only when the persons of these keys reach the threshold and every quota; raises
    Denied (`threshold`).
    """
    lacks = grounds.lacking(persons_of(keys, grounds))
    if lacks:
        raise Denied(
            f"role {release.role} v{release.version}",
            expected=f"{grounds.needs()} without the proposer",
            got=f"{lacks} missing",
            hint="a key was denied or removed since, or a quota was added: propose it again",
            reason="threshold",
        )
