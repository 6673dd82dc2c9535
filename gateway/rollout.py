"""The course of one roll-out: plan, members and facts in; the next state and gate out. Pure.

A wave is a barrier: the next one opens only when this one has passed, and silence passes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from embrasure import limits
from embrasure.trust.plan import Plan
from gateway.states import (
    ALARMS,
    ENDED,
    FAILURES,
    IN_FLIGHT,
    MOVING,
    NODE,
    REPLACEABLE,
    ROLLOUT,
    SWITCHING,
    check_move,
)

GateState = Literal["open", "paused", "halted", "done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node in one roll-out. changed: Unix seconds; reached: it answered at least once;
    late: enrolled after the start, so it follows the gate and counts in nothing.
    """

    node: str
    wave: int
    mode: str
    state: str = "pending"
    reason: str = ""
    attempt: int = 1
    dials: int = 0
    reached: bool = False
    oseq: int = 0
    late: bool = False
    changed: int = 0

    def to(self, state: str, reason: str = "") -> Member:
        """Return this member in another state; raises Damaged when that may not follow."""
        check_move(NODE, old=self.state, new=state, what=f"node {self.node}")
        return replace(self, state=state, reason=reason[: limits.REASON_CHARACTERS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Where a plan stands. wave_since: Unix time of the last change in the open wave."""

    id: str
    env: str
    app: str
    plan: str
    seq: int
    state: str = "pending"
    reason: str = ""
    returns_to: str = ""
    open_wave: int = 0
    attempt: int = 1
    gate_state: str = ""
    wave_since: int = 0
    blocked_since: int = 0

    def to(self, state: str, reason: str = "", **changes: object) -> Rollout:
        """Return this roll-out in another state; raises Damaged when that may not follow."""
        check_move(ROLLOUT, old=self.state, new=state, what=f"roll-out {self.id}")
        kept = reason[: limits.REASON_CHARACTERS]
        return replace(self, state=state, reason=kept, **changes)  # type: ignore[arg-type]  # names of fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the step looks at besides the rows.

    now: Unix seconds; evidence: receipts that count, a number for each wave; hold: why the next
    gate cannot be signed now; newer: a higher seq of this app was published.
    """

    now: int
    evidence: tuple[int, ...]
    hold: str = ""
    newer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """The gate that must be signed and published before the new state counts."""

    state: GateState
    open_wave: int
    attempt: int
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What follows: the roll-out as it will be, changed members, and perhaps a gate."""

    rollout: Rollout
    members: tuple[Member, ...] = ()
    publish: Publish | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """Why the failure policy stops the roll-out: a code of the gate and a sentence."""

    code: str
    reason: str


def step(rollout: Rollout, plan: Plan, members: Sequence[Member], facts: Facts) -> Step | None:
    """Return what follows now, or None when nothing does. Called again until it returns None."""
    if rollout.state in ENDED or rollout.state == "pending":
        return None
    silent = expired(rollout, plan, members, now=facts.now)
    if silent:
        return Step(rollout=rollout, members=silent)
    if facts.newer and rollout.state in REPLACEABLE:
        return Step(rollout=rollout.to("superseded", "a higher seq was published"))
    if rollout.state in ("running", "soaking", "blocked"):
        judged = [member for member in members if not member.late]
        return _course(rollout, plan, judged, facts)
    if rollout.state == "rolling_back":
        return _way_back(rollout, members)
    return None


def _course(rollout: Rollout, plan: Plan, members: Sequence[Member], facts: Facts) -> Step | None:
    """A roll-out that goes on by itself: stop, wait, or open the next wave."""
    found = breach(rollout, plan, members, now=facts.now)
    if found is not None:
        return halt(rollout, found)
    mine = [member for member in members if member.wave == rollout.open_wave]
    states = {member.state for member in mine}
    # An unreachable member is dialled on until the deadline, so the wave is not over.
    waits = any(
        m.state == "unreachable" and not is_over(rollout, plan, m, now=facts.now) for m in mine
    )
    over = not states & MOVING and not waits
    if rollout.state == "running":
        return Step(rollout=rollout.to("soaking")) if over else None
    if not over or "checking" in states:
        return Step(rollout=rollout.to("running")) if rollout.state == "blocked" else None
    why = facts.hold or _missing_evidence(rollout, plan, facts)
    if why:
        return _block(rollout, why, now=facts.now)
    if rollout.state == "blocked":
        return Step(rollout=rollout.to("running", blocked_since=0))
    return _next_wave(rollout, plan, now=facts.now)


def _next_wave(rollout: Rollout, plan: Plan, *, now: int) -> Step:
    last = rollout.open_wave == len(plan.waves) - 1
    wave = rollout.open_wave if last else rollout.open_wave + 1
    state: GateState = "done" if last else "open"
    after = rollout.to(
        "succeeded" if last else "running", open_wave=wave, wave_since=now, gate_state=state
    )
    publish = Publish(state=state, open_wave=wave, attempt=rollout.attempt)
    return Step(rollout=after, publish=publish)


def _missing_evidence(rollout: Rollout, plan: Plan, facts: Facts) -> str:
    """Every wave so far, not only this one: a key may have been denied since."""
    for number in range(rollout.open_wave + 1):
        wave, held = plan.waves[number], facts.evidence[number]
        if held < wave.need:
            return f"evidence: {held} of {wave.need} receipts of wave {wave.name}"
    return ""


def _block(rollout: Rollout, why: str, *, now: int) -> Step | None:
    if rollout.state != "blocked":
        return Step(rollout=rollout.to("blocked", why, blocked_since=now))
    if now - rollout.blocked_since >= limits.BLOCKED_SECONDS:
        return halt(rollout, Breach("blocked_deadline", why))
    same = rollout.reason == why[: limits.REASON_CHARACTERS]
    return None if same else Step(rollout=replace(rollout, reason=why[: limits.REASON_CHARACTERS]))


def halt(rollout: Rollout, why: Breach) -> Step:
    """Return the stop: nothing new starts, in-flight nodes finish and are judged."""
    after = rollout.to("halted", f"{why.code}: {why.reason}", gate_state="halted")
    return Step(
        rollout=after,
        publish=Publish(
            state="halted",
            open_wave=rollout.open_wave,
            attempt=rollout.attempt,
            code=why.code,
            reason=why.reason[: limits.REASON_CHARACTERS],
        ),
    )


def _way_back(rollout: Rollout, members: Sequence[Member]) -> Step | None:
    """The end of an abort, once nobody is between two releases."""
    opened = [member for member in members if member.wave <= rollout.open_wave]
    # A pull node may have begun without a word; it is waited for until its deadline.
    if any(m.state in SWITCHING or _may_have_begun(m) for m in opened):
        return None
    left = Counter(m.state for m in opened if m.state in ("healthy", "failed", *ALARMS))
    lost = sum(m.state == "unreachable" and (m.reached or m.mode == "pull") for m in opened)
    if not left and not lost:
        return Step(rollout=rollout.to("rolled_back", rollout.reason))
    told = [f"{count} {state}" for state, count in sorted(left.items())]
    told += [f"{lost} not heard of"] if lost else []
    return Step(rollout=rollout.to("failed", f"{rollout.reason}; left: {', '.join(told)}"))


def _may_have_begun(member: Member) -> bool:
    return member.state == "fetching" or (member.mode == "pull" and member.state == "pending")


# --- deadlines ---------------------------------------------------------------------------------


def is_over(rollout: Rollout, plan: Plan, member: Member, *, now: int) -> bool:
    """Return whether this member's time without any step forward, in its wave or its own, is over.

    A pull node has longer: its word comes through a letterbox.
    """
    wait = plan.waves[member.wave].deadline_s
    wait += limits.SILENT_SECONDS if member.mode == "pull" else 0
    return now - max(rollout.wave_since, member.changed) >= wait


def expired(
    rollout: Rollout, plan: Plan, members: Sequence[Member], *, now: int
) -> tuple[Member, ...]:
    """Return the members of open waves that said nothing until the deadline, as unreachable."""
    if rollout.state in ("paused", "halted"):
        return ()
    return tuple(
        member.to("unreachable", _silence(member))
        for member in members
        if member.wave <= rollout.open_wave
        and member.state in IN_FLIGHT
        and is_over(rollout, plan, member, now=now)
    )


def _silence(member: Member) -> str:
    """Why nothing more is expected, with the last word that there was."""
    why = "silent" if member.reached or member.mode == "pull" else "dial"
    return f"{why}; {member.reason}" if member.reason else why


# --- failure policy ----------------------------------------------------------------------------


def cap(percent: int, size: int) -> int:
    """Return how many failures of `size` nodes stop a roll-out: rounded up, at least 1."""
    return max(1, -(-percent * size // 100))


def breach(rollout: Rollout, plan: Plan, members: Sequence[Member], *, now: int) -> Breach | None:
    """Return why the plan's failure policy stops this roll-out now, or None.

    Failures and alarms use up the same budget and are shown apart; unreachable is neither.
    """
    opened = [member for member in members if member.wave <= rollout.open_wave]
    bad = [member for member in opened if member.state in FAILURES | ALARMS]
    mine = [member for member in opened if member.wave == rollout.open_wave]
    policy = plan.failure
    if bad:
        first = bad[0]
        told = f"{first.node} {first.state} {first.reason}".strip()
        if any(member.wave == 0 for member in bad):
            return Breach("canary_failed", told)
        size, here = len(mine), sum(member.wave == rollout.open_wave for member in bad)
        if here and here >= cap(policy.max_failed_pct, size):
            return Breach("max_failed", f"{here} of {size} in this wave, first {told}")
        if len(bad) >= (policy.max_failed or len(members) + 1):
            return Breach("max_failed", f"{len(bad)} in all, first {told}")
        if len(bad) >= cap(policy.max_failed_pct, len(members)):
            return Breach("max_failed", f"{len(bad)} of {len(members)} in all, first {told}")
    away = sum(m.state == "unreachable" and is_over(rollout, plan, m, now=now) for m in mine)
    share = 100 if rollout.open_wave == 0 else policy.min_reached_pct
    if away and (len(mine) - away) * 100 < share * len(mine):
        return Breach("min_reached", f"{len(mine) - away} of {len(mine)} nodes answered")
    return None


# --- what people see ---------------------------------------------------------------------------


def wave_state(rollout: Rollout, wave: int) -> str:
    """Return the state of one wave: waiting, open, soaking, failed or passed."""
    if wave < rollout.open_wave or rollout.state == "succeeded":
        return "passed"
    if wave > rollout.open_wave or rollout.state == "pending":
        return "waiting"
    if rollout.state in ("halted", "rolling_back", "rolled_back", "failed", "aborted"):
        return "failed"
    state = rollout.returns_to if rollout.state == "paused" else rollout.state
    return "soaking" if state in ("soaking", "blocked") else "open"


def counts(members: Sequence[Member]) -> Mapping[str, int]:
    """Return how many members are in each state; no two states are ever merged."""
    return dict(sorted(Counter(member.state for member in members).items()))
