"""Whether a plan keeps to what the policy asks of its app."""

from __future__ import annotations

from datetime import timedelta

from embrasure.clock import read_time
from embrasure.trust.plan import Plan
from embrasure.trust.policy import Policy


def is_within_policy(plan: Plan, policy: Policy) -> bool:
    """Return whether `plan` respects what `policy` asks of its app; an app without rules does not.

    No alarm in the node: policy may have been tightened since the approval.
    """
    rules = policy.rules_of(plan.app)
    if rules is None or rules.group != plan.group:
        return False
    second = plan.waves[1].percent if len(plan.waves) > 1 else 0
    created, approve_by = read_time(plan.created), read_time(plan.approve_by)
    return (
        len(plan.waves[0].nodes) >= rules.min_canary
        and all(wave.soak_s >= rules.min_soak_s for wave in plan.waves)
        and second <= rules.max_second_percent
        and approve_by - created <= timedelta(seconds=rules.approval_expiry_s)
        and read_time(plan.not_after) - approve_by <= timedelta(seconds=rules.execution_expiry_s)
    )
