"""What operators may ask of a roll-out: pause, resume, abort, retry. Pure; repeating is harmless.

None of these can make a roll-out faster than its plan: each ends in a gate that nodes judge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from embrasure import limits
from embrasure.errors import Denied, Misuse
from embrasure.trust.plan import Plan
from gateway.rollout import Facts, GateState, Member, Publish, Rollout, Step, breach
from gateway.states import ENDED, FAILURES

_RETRIED = FAILURES | {"refused", "drifted"}  # these burnt a try, so the attempt must rise
_AWAY = frozenset({"unreachable", "deferred", "interrupted"})


def _ended(rollout: Rollout, verb: str) -> Denied:
    return Denied(
        f"roll-out {rollout.id}",
        expected=f"an open roll-out to {verb}",
        got=rollout.state,
        reason="ended",
    )


def _gate(rollout: Rollout, state: GateState, *, code: str = "", reason: str = "") -> Publish:
    return Publish(
        state=state,
        open_wave=rollout.open_wave,
        attempt=rollout.attempt,
        code=code,
        reason=reason[: limits.REASON_CHARACTERS],
    )


def pause(rollout: Rollout, reason: str) -> Step | None:
    """Return the pause, or None when it is paused already: in-flight nodes finish and report."""
    if rollout.state == "paused":
        return None
    if rollout.state not in ("running", "soaking", "blocked"):
        raise _ended(rollout, "pause")
    back = "soaking" if rollout.state == "soaking" else "running"
    after = rollout.to("paused", reason, returns_to=back, gate_state="paused")
    return Step(rollout=after, publish=_gate(rollout, "paused", code="operator", reason=reason))


def resume(rollout: Rollout, plan: Plan, members: Sequence[Member], facts: Facts) -> Step | None:
    """Return the way on, or None when it runs already.

    From `halted` only when the failure policy holds again: retry what failed first.
    """
    if rollout.state in ("running", "soaking", "blocked"):
        return None
    if rollout.state not in ("paused", "halted"):
        raise _ended(rollout, "resume")
    back = rollout.returns_to if rollout.state == "paused" else "running"
    after = rollout.to(back, wave_since=facts.now, gate_state="open", returns_to="")
    if rollout.state == "halted":
        found = breach(rollout, plan, members, now=facts.now)
        if found is not None:
            raise Denied(
                f"roll-out {rollout.id}",
                expected="a failure policy that holds again",
                got=f"{found.code}: {found.reason}",
                untouched="nothing new starts; healthy nodes stay",
                hint=f"embrasure rollout retry {rollout.id} --failed, or abort it",
                reason="policy",
            )
    return Step(rollout=after, publish=_gate(rollout, "open"))


def abort(rollout: Rollout, reason: str, *, now: int) -> Step | None:
    """Return the end of this roll-out: its gate is halted for good, the members are judged."""
    if rollout.state == "rolling_back":
        return None
    if rollout.state in ENDED:
        raise _ended(rollout, "abort")
    told = _gate(rollout, "halted", code="abort", reason=reason)
    if rollout.state == "pending":
        return Step(
            rollout=rollout.to("aborted", reason, gate_state="halted"),
            publish=told,
        )
    after = rollout.to("rolling_back", reason, gate_state="halted", wave_since=now)
    return Step(rollout=after, publish=told)


def choose(
    members: Sequence[Member], *, nodes: Collection[str], failed: bool, unreachable: bool
) -> tuple[Member, ...]:
    """Return the members that a retry means; raises Misuse for a stranger or an empty choice."""
    known = {member.node for member in members}
    strangers = sorted(set(nodes) - known)
    if strangers:
        raise Misuse("retry", expected="members of this roll-out", got=strangers[0])
    wanted = (_RETRIED if failed else frozenset()) | (_AWAY if unreachable else frozenset())
    chosen = tuple(
        member
        for member in members
        if member.state in wanted or (member.node in nodes and member.state in _RETRIED | _AWAY)
    )
    if not chosen:
        raise Misuse(
            "retry",
            expected="nodes that are not done",
            got="none of that kind",
            hint="say --failed, --unreachable or --node ID; see rollout status",
        )
    return chosen


def retry(rollout: Rollout, plan: Plan, chosen: Sequence[Member], *, now: int) -> Step:
    """Return the step that lets `chosen` try again; healthy nodes stay as they are.

    The attempt rises only when a chosen node burnt a try; it is limited by the plan.
    """
    if rollout.state in ENDED - {"succeeded"} or rollout.state in ("pending", "rolling_back"):
        raise _ended(rollout, "retry")
    burnt = any(member.state in _RETRIED for member in chosen)
    attempt = rollout.attempt + (1 if burnt else 0)
    if attempt > plan.max_attempts:
        raise Denied(
            f"roll-out {rollout.id}",
            expected=f"at most {plan.max_attempts} attempts, as the plan says",
            got=attempt,
            hint="propose a new plan",
            reason="max-attempts",
        )
    again = tuple(
        replace(member.to("pending", "retry"), attempt=attempt, dials=0, changed=now)
        for member in chosen
    )
    if rollout.state == "succeeded":
        # Its gate stays `done`; only the number of tries rises.
        after = replace(rollout, attempt=attempt)
        return Step(rollout=after, members=again, publish=_gate(after, "done"))
    paused = rollout.state == "paused"
    after = rollout.to(
        "paused" if paused else "running",
        rollout.reason if paused else "",
        attempt=attempt,
        wave_since=now,
        gate_state="paused" if paused else "open",
        **({"returns_to": "running"} if paused else {}),
    )
    return Step(rollout=after, members=again, publish=_gate(after, "paused" if paused else "open"))
